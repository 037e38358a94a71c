"""A group commit of plain results and begins by SQL written by hand, for the common case.

It does what `ledger` does, under the same guards: a result is written where the row is still this
drain's with that begin, and a message is begun where it is still this drain's and not begun. On
PostgreSQL that is one statement, which is its own transaction; on SQLite a few for all rows, or
none. What is left undone, for whatever reason, the ledger's own way is there to judge.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from django.db import connections

from pillarbox.delivery import database
from pillarbox.delivery.groups import Served
from pillarbox.models import Attempt, Message, Recipient, State

SentRow = tuple[Any, ...]
"""A message's key, ``begun_at`` and ``attempts``, and the columns of `groups.Tried`."""
Rows = Sequence[tuple[Any, ...]]
_VENDORS = frozenset({"postgresql", "sqlite"})

_RESULT = {
    "pk": "bigint",
    "begun_at": "timestamptz",
    "attempts": "integer",
    "mailer": "text",
    "server": "text",
    "started_at": "timestamptz",
    "took_ms": "integer",
    "stage": "text",
    "code": "smallint",
    "enhanced_code": "text",
    "reply": "text",
}
_RECIPIENT = {
    "message_id": "bigint",
    "kind": "text",
    "address": "text",
    "code": "smallint",
    "enhanced_code": "text",
    "reply": "text",
}
_WANTED = {"pk": "bigint", "attempts": "integer", "mailer": "text"}


def _rows(name: str, columns: Mapping[str, str]) -> str:
    """Return what makes rows of arrays, one a column."""
    arrays = ", ".join(f"%({name}_{it})s::{kind}[]" for it, kind in columns.items())
    return f"unnest({arrays}) AS {name}({', '.join(columns)})"


# Rows are found by the primary key alone and judged after that: given more conditions the planner
# may go by an index over thousands of rows of the same state. None serves what is within a CASE. A
# row that somebody has locked is waited for where it has a result, and passed by where it is to
# begin.
_RECORDS = f"""result AS MATERIALIZED (
    SELECT * FROM {_rows("result", _RESULT)}
), recorded AS (
    UPDATE {{message}} AS m
    SET state = '{{sent}}', finished_at = %(now)s::timestamptz, drain = NULL, begun_at = NULL,
        attempts = result.attempts, mailer = result.mailer
    FROM result
    WHERE m.id = ANY(ARRAY(SELECT pk FROM result)) AND m.id = result.pk AND CASE
        WHEN m.state = '{{sending}}' AND m.drain = %(drain)s::uuid
        THEN m.begun_at = result.begun_at END
    RETURNING m.id, result.*
), trail AS (
    INSERT INTO {{attempt}} (message_id, mailer, server, drain, started_at, took_ms, result, stage,
        code, enhanced_code, reply)
    SELECT pk, mailer, server, %(drain)s::uuid, started_at, took_ms, '{{sent}}', stage, code,
        enhanced_code, reply
    FROM recorded
), served AS (
    INSERT INTO {{recipient}} (message_id, kind, address, state, code, enhanced_code, reply,
        updated_at)
    SELECT message_id, kind, address, '{{sent}}', code, enhanced_code, reply, %(now)s::timestamptz
    FROM {_rows("recipient", _RECIPIENT)}
    WHERE message_id IN (SELECT id FROM recorded)
)"""


def _begins(condition: str = "") -> str:
    """Return the part of a statement that begins, where the condition holds."""
    return f"""wanted AS MATERIALIZED (
    SELECT * FROM {_rows("wanted", _WANTED)}
), free AS (
    SELECT id, state, drain, begun_at, attempts FROM {{message}}
    WHERE id = ANY(ARRAY(SELECT pk FROM wanted)){condition}
    ORDER BY id FOR UPDATE SKIP LOCKED
), begun AS (
    UPDATE {{message}} AS m SET begun_at = %(now)s::timestamptz, mailer = wanted.mailer
    FROM free JOIN wanted ON wanted.pk = free.id AND wanted.attempts = free.attempts
    WHERE m.id = free.id AND free.state = '{{sending}}' AND free.drain = %(drain)s::uuid
        AND free.begun_at IS NULL
    RETURNING m.id
)"""


_ALL_RECORDED = " AND (SELECT count(*) FROM recorded) = (SELECT count(*) FROM result)"
_BOTH = f"""
WITH {_RECORDS}, {_begins(_ALL_RECORDED)}
SELECT id, TRUE FROM recorded UNION ALL SELECT id, FALSE FROM begun
"""
# A lonely mail's begin and its result are two commits: each need not carry the other's part.
_RECORD_ALONE = f"WITH {_RECORDS} SELECT id, TRUE FROM recorded"
_BEGIN_ALONE = f"WITH {_begins()} SELECT id, FALSE FROM begun"


def is_possible(using: str) -> bool:
    """Whether there is such SQL for the database, and no transaction is open."""
    return connections[using].vendor in _VENDORS and database.is_between(using)


def record_and_begin(
    drain: uuid.UUID,
    using: str,
    now: datetime,
    results: Sequence[SentRow],
    recipients: Sequence[Served],
    begins: Sequence[tuple[int, int, str]],
    meanwhile: Callable[[], None] | None = None,
) -> tuple[set[int], set[int]]:
    """Write results and, if all of them could be written, begins; return the keys of both.

    ``results`` are those of messages sent to everybody, ``recipients`` whom they were sent to,
    ``begins`` the key, the attempts and the mailer of each that is to begin; ``now`` is when they
    do. Commits, unless it raises what the database raises: then nobody knows. ``meanwhile`` may be
    called while the database works.
    """
    if connections[using].vendor == "sqlite":
        return _all_or_none(drain, using, now, results, recipients, begins)
    return _at_once(drain, using, now, results, recipients, begins, meanwhile)


def _at_once(
    drain: uuid.UUID,
    using: str,
    now: datetime,
    results: Rows,
    recipients: Rows,
    begins: Rows,
    meanwhile: Callable[[], None] | None,
) -> tuple[set[int], set[int]]:
    parameters = {"now": now.isoformat(), "drain": str(drain)}
    if results:
        parameters |= _arrays("result", results, _RESULT)
        parameters |= _arrays("recipient", recipients, _RECIPIENT)
    if begins or not results:
        parameters |= _arrays("wanted", begins, _WANTED)
    statement = _BOTH if results and begins else _RECORD_ALONE if results else _BEGIN_ALONE
    sql = _sql(using, statement)
    rows = database.execute(using, sql, parameters, prepare=True, meanwhile=meanwhile)
    recorded = {pk for pk, is_recorded in rows if is_recorded}
    return recorded, {pk for pk, is_recorded in rows if not is_recorded}


def _arrays(name: str, rows: Rows, columns: Mapping[str, str]) -> dict[str, str]:
    """Write rows as arrays, one a column (PostgreSQL's documentation, "Array Input Syntax")."""
    values = zip(*rows, strict=True) if rows else [()] * len(columns)
    return {
        f"{name}_{column}": f"{{{_ELEMENTS[kind](column_values) if rows else ''}}}"
        for (column, kind), column_values in zip(columns.items(), values, strict=True)
    }


def _numbers(values: tuple[int | None, ...]) -> str:
    return ",".join(map(str, values)).replace("None", "NULL")


def _moments(values: tuple[datetime, ...]) -> str:
    return ",".join([value.isoformat() for value in values])


def _texts(values: tuple[str, ...]) -> str:
    # All at once: no text has a NUL, which PostgreSQL could not store.
    escaped = "\0".join(values).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + escaped.replace("\0", '","') + '"'


_ELEMENTS: Mapping[str, Callable[[Any], str]] = {
    "bigint": _numbers,
    "integer": _numbers,
    "smallint": _numbers,
    "timestamptz": _moments,
    "text": _texts,
}

_RECORD = """
UPDATE {message} SET state = '{sent}', finished_at = %s, drain = NULL, begun_at = NULL,
    attempts = %s, mailer = %s
WHERE id = %s AND state = '{sending}' AND drain = %s AND begun_at = %s
"""
_TRAIL = """
INSERT INTO {attempt} (message_id, drain, result, mailer, server, started_at, took_ms, stage, code,
    enhanced_code, reply)
VALUES (%s, %s, '{sent}', %s, %s, %s, %s, %s, %s, %s, %s)
"""
_SERVED = """
INSERT INTO {recipient} (message_id, kind, address, state, code, enhanced_code, reply, updated_at)
VALUES (%s, %s, %s, '{sent}', %s, %s, %s, %s)
"""
_BEGIN = """
UPDATE {message} SET begun_at = %s, mailer = %s
WHERE id = %s AND state = '{sending}' AND drain = %s AND begun_at IS NULL AND attempts = %s
"""


class _NotAll(Exception):
    """A row is not as it was thought to be."""


def _all_or_none(
    drain: uuid.UUID, using: str, now: datetime, results: Rows, recipients: Rows, begins: Rows
) -> tuple[set[int], set[int]]:
    def work() -> tuple[set[int], set[int]]:
        with connections[using].cursor() as cursor:
            for statement, rows in _few(drain, using, now, results, recipients, begins):
                if rows:
                    cursor.executemany(_sql(using, statement), rows)
                    if cursor.rowcount != len(rows):
                        raise _NotAll
        return {row[0] for row in results}, {row[0] for row in begins}

    try:
        return database.run(using, work)
    except _NotAll:
        return set(), set()


def _few(
    drain: uuid.UUID, using: str, now: datetime, results: Rows, recipients: Rows, begins: Rows
) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
    """Yield each statement with the parameters of its rows, as the database keeps them."""
    connection = connections[using]
    mine = Message._meta.get_field("drain").get_db_prep_value(drain, connection)
    moment = connection.ops.adapt_datetimefield_value
    at = moment(now)
    yield (
        _RECORD,
        [
            (at, attempts, mailer, pk, mine, moment(begun_at))
            for pk, begun_at, attempts, mailer, *_ in results
        ],
    )
    yield (
        _TRAIL,
        [
            (pk, mine, mailer, server, moment(started_at), *rest)
            for pk, _, _, mailer, server, started_at, *rest in results
        ],
    )
    yield _SERVED, [(*row, at) for row in recipients]
    yield _BEGIN, [(at, mailer, pk, mine, attempts) for pk, attempts, mailer in begins]


@cache
def _sql(using: str, statement: str) -> str:
    quote = connections[using].ops.quote_name
    return statement.format(
        message=quote(Message._meta.db_table),
        attempt=quote(Attempt._meta.db_table),
        recipient=quote(Recipient._meta.db_table),
        sent=State.SENT.value,
        sending=State.SENDING.value,
    )
