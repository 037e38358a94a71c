"""A claim of one way's mail as one statement, on PostgreSQL; no rates, which are other rows' locks.

It renews the drain's lease, takes what is due priority by priority, and returns whole rows. What
it finds expired it only counts: `claims` ends that.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from functools import cache, partial
from typing import Any

from django.db import connections

from pillarbox.delivery import database, looks
from pillarbox.delivery.ways import Way
from pillarbox.models import Drain, Message, Priority, State, clock

# Each priority is a query of its own, ordered as the index is, for what the higher ones left.
_PRIORITY = """
p{priority} AS (
    SELECT id, expires_at <= STATEMENT_TIMESTAMP() AS is_late FROM {message}
    WHERE state = '{queued}' AND stream = %s AND priority = {priority}
        AND due_at <= STATEMENT_TIMESTAMP(){marks}
    ORDER BY due_at, id LIMIT GREATEST(0, %s{taken}) FOR UPDATE SKIP LOCKED
)"""
_STATEMENT = """
WITH lease AS (
    UPDATE {drain} SET lease_until = STATEMENT_TIMESTAMP() + %s, idle = FALSE
    WHERE id = %s AND lease_until > STATEMENT_TIMESTAMP() RETURNING id
), {queries}, due AS (
    {due}
), claimed AS (
    UPDATE {message} AS m SET state = '{sending}', drain = lease.id, begun_at = NULL
    FROM due, lease WHERE m.id = due.id AND due.is_late IS NOT TRUE
    RETURNING {columns}
)
SELECT (SELECT count(*) FROM due WHERE is_late), {own_columns}
FROM lease LEFT JOIN claimed ON TRUE
"""
_FIELDS = Message._meta.concrete_fields
_NAMES = [field.attname for field in _FIELDS]


def is_possible(using: str) -> bool:
    """Whether there is such a statement, and it can be its own transaction."""
    is_postgresql = connections[using].vendor == "postgresql"
    return is_postgresql and clock.frozen_at is None and database.is_between(using)


def claim(
    drain: uuid.UUID, using: str, way: Way, limit: int, lease: timedelta
) -> tuple[list[Message], int] | None:
    """Claim up to ``limit`` messages of the way; return them, and how many were found expired.

    The lease is renewed to last for ``lease``. None where it has run out: nothing was claimed.
    Commits, unless it raises what the database raises: then nobody knows.
    """
    marks, marked = looks.marks_of(using, way)
    of_each = [way.stream, *marked, limit] * len(Priority.values)
    rows = database.execute(using, _sql(using, marks), [lease, drain, *of_each])
    if not rows:
        return None
    claimed = [_message(using, values) for _, *values in rows if values[0] is not None]
    claimed.sort(key=lambda message: (message.priority, message.due_at, message.pk))
    return claimed, rows[0][0]


def _message(using: str, values: list[Any]) -> Message:
    for place, convert in _converters(using):
        values[place] = convert(values[place])
    return Message.from_db(using, _NAMES, values)


@cache
def _converters(using: str) -> list[tuple[int, Callable[[Any], Any]]]:
    """Return what makes Python's values of those columns for which the driver does not."""
    connection = connections[using]
    return [
        (place, partial(convert, expression=column, connection=connection))
        for place, field in enumerate(_FIELDS)
        for column in [field.cached_col]
        for convert in field.get_db_converters(connection)
    ]


@cache
def _sql(using: str, marks: str) -> str:
    quote = connections[using].ops.quote_name
    table, names = quote(Message._meta.db_table), [quote(str(field.column)) for field in _FIELDS]
    queries, taken = [], ""
    for priority in Priority.values:
        queries.append(
            _PRIORITY.format(
                priority=priority,
                message=table,
                queued=State.QUEUED.value,
                marks=marks,
                taken=taken,
            )
        )
        taken += f" - (SELECT count(*) FROM p{priority})"
    return _STATEMENT.format(
        drain=quote(Drain._meta.db_table),
        message=table,
        sending=State.SENDING.value,
        queries=",".join(queries),
        due=" UNION ALL ".join(f"SELECT * FROM p{priority}" for priority in Priority.values),
        columns=", ".join(f"m.{name}" for name in names),
        own_columns=", ".join(f"claimed.{name}" for name in names),
    )
