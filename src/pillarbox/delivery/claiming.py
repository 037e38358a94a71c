"""A claim of one way's mail as one statement, on PostgreSQL; no rates, which are other rows' locks.

It renews the drain's lease, takes what is due priority by priority, and returns the rows. What it
finds expired it only names: `claims` ends that. The part that takes is shared with `taking`.

Its COMMIT need not be flushed. Where the server crashes before, the messages are queued as they
were, and the drain's begins, which are flushed and the claim before them, find that they are.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import cache, partial
from typing import Any

from django.db import connections
from django.db.models.signals import post_init, pre_init

from pillarbox import signals
from pillarbox.delivery import database, looks
from pillarbox.delivery.ways import Way
from pillarbox.models import Drain, Message, Priority, State, made

Converter = tuple[int, Callable[[Any], Any]]
"""A place in a row, and what makes Python's value of the database's."""

# Each priority is a query of its own, ordered as the index is. It is read, and its rows are locked,
# only as far as the higher ones left room: an Append stops at the LIMIT above it. The table is
# asked for an array of keys, not joined: of a LIMIT that it does not know the planner expects a
# tenth of the queue, and for so many it would read all of the table. That it is not told the LIMIT
# keeps it from planning each claim anew, for its own small one.
_PRIORITY = """SELECT * FROM (
        SELECT id, expires_at <= {now} AS is_late FROM {message}
        WHERE EXISTS (SELECT 1 FROM {gate}) AND state = '{queued}' AND stream = %s
            AND priority = {priority} AND due_at <= {now}{marks}
        ORDER BY due_at, id LIMIT (SELECT %s::bigint) FOR UPDATE SKIP LOCKED
    ) AS p{priority}"""
_TAKE = """due AS (
    {due}
    LIMIT (SELECT %s::bigint)
), claimed AS (
    UPDATE {message} AS m SET state = '{sending}', drain = lease.id, begun_at = NULL
    FROM lease WHERE m.id = ANY(ARRAY(SELECT id FROM due WHERE is_late IS NOT TRUE))
    RETURNING {columns}, m.priority AS urgency, m.due_at AS since
)"""
ORDER = "ORDER BY claimed.urgency, claimed.since, claimed.id"
_STATEMENT = """
WITH lease AS (
    UPDATE {drain} SET lease_until = {now} + %s, idle = FALSE
    FROM set_config('synchronous_commit', 'off', TRUE)
    WHERE id = %s AND lease_until > {now} RETURNING id
), {take}
SELECT due.id, {columns}
FROM lease LEFT JOIN due ON TRUE LEFT JOIN claimed ON claimed.id = due.id
{order}
"""
_FIELDS = {field.attname: field for field in Message._meta.concrete_fields}
_KNOWN = {"state", "stream", "drain", "begun_at", "mailer"}
"""What a claim asks for or writes; the mailer it writes in memory alone."""
_NOT_NEEDED = {
    *("date", "subject", "from_email", "first_recipient", "recipient_count", "idempotency_key"),
    *("fingerprint", "tags", "metadata", "created_at", "finished_at", "priority", "due_at"),
}
"""What a worker itself makes no use of."""
_ALL = tuple(name for name in _FIELDS if name not in _KNOWN)
_NEEDED = tuple(name for name in _ALL if name not in _NOT_NEEDED)
_KEY = _NEEDED.index("id")
"""The first of either."""
_LISTENED_TO = (*signals.OF_ATTEMPTS, pre_init, post_init)
_EMPTY: dict[str, Callable[[], Any]] = {"[]": list, "{}": dict}


def claim(
    drain: uuid.UUID, using: str, way: Way, limit: int, lease: timedelta
) -> tuple[list[Message], list[int]] | None:
    """Claim up to ``limit`` messages of the way; return them, and which were found expired.

    The lease is renewed to last for ``lease``. None where it has run out: nothing was claimed.
    Commits, unless it raises what the database raises: then nobody knows.
    """
    now, moment = looks.now_of(using)
    marks, marked = looks.marks_of(using, way)
    renewal = [*moment, lease, drain, *moment]
    taking = take_parameters(moment, way.stream, marked, limit)
    read = to_read()
    sql = _sql(using, marks, now, read)
    rows = database.execute(using, sql, [*renewal, *taking], prepare=True)
    if not rows:
        return None
    claimed = messages_of(using, drain, way, read, [values for _, *values in rows])
    late = [pk for pk, *values in rows if pk is not None and values[_KEY] is None]
    return claimed, late


def to_read() -> tuple[str, ...]:
    """Return which columns to read of what is claimed, the key first.

    All where a project listens to what becomes of messages. Else a worker does without those that
    it does not use itself: Django reads them where somebody asks for them.
    """
    return _ALL if any(map(made.listens, _LISTENED_TO)) else _NEEDED


def messages_of(
    using: str, drain: uuid.UUID, way: Way, read: tuple[str, ...], rows: Iterable[list[Any]]
) -> list[Message]:
    """Return as messages that the drain is to send by the way what `columns` gave of them.

    A row without a key is none.
    """
    make, converters = made.maker(using), _converters(using, read)
    known = {
        "state": State.SENDING,
        "stream": way.stream,
        "drain": drain,
        "begun_at": None,
        "mailer": way.mailer,
    }
    claimed = []
    for values in rows:
        if values[_KEY] is not None:
            for place, convert in converters:
                values[place] = convert(values[place])
            claimed.append(make({**dict(zip(read, values, strict=True)), **known}))
    return claimed


@cache
def _converters(using: str, read: tuple[str, ...]) -> list[Converter]:
    """Return what makes Python's values of those columns for which the driver does not."""
    connection = connections[using]
    return [
        (place, _but_empty(partial(convert, expression=column, connection=connection)))
        for place, name in enumerate(read)
        for column in [_FIELDS[name].cached_col]
        for convert in _FIELDS[name].get_db_converters(connection)
    ]


def _but_empty(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a converter that does not ask a parser what most tags and metadata are."""

    def converted(value: Any) -> Any:
        made_empty = _EMPTY.get(value)
        return made_empty() if made_empty is not None else convert(value)

    return converted


@cache
def _sql(using: str, marks: str, now: str, read: tuple[str, ...]) -> str:
    return _STATEMENT.format(
        drain=connections[using].ops.quote_name(Drain._meta.db_table),
        now=now,
        take=take_sql(using, marks, now, read, gate="lease"),
        columns=columns(using, "claimed", read),
        order=ORDER,
    )


def take_sql(using: str, marks: str, now: str, read: tuple[str, ...], *, gate: str) -> str:
    """Return the part of a statement that claims for the row in ``lease``, if ``gate`` has any."""
    table = connections[using].ops.quote_name(Message._meta.db_table)
    due = [
        _PRIORITY.format(
            priority=priority,
            message=table,
            queued=State.QUEUED.value,
            marks=marks,
            now=now,
            gate=gate,
        )
        for priority in Priority.values
    ]
    return _TAKE.format(
        due="\n    UNION ALL ".join(due),
        message=table,
        sending=State.SENDING.value,
        columns=columns(using, "m", read),
    )


def take_parameters(moment: list[Any], stream: str, marked: list[str], limit: int) -> list[Any]:
    """Return the parameters of that part, ``moment`` as `looks.now_of` has it."""
    of_each = [*moment, stream, *moment, *marked, limit]
    return [*of_each * len(Priority.values), limit]


def columns(using: str, table: str, read: tuple[str, ...]) -> str:
    """Return as SQL the columns of what is claimed, from ``table``."""
    quote = connections[using].ops.quote_name
    return ", ".join(f"{table}.{quote(str(_FIELDS[name].column))}" for name in read)
