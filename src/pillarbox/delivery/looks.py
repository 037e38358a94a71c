"""Looks at the queue without touching it: what is due by which way, which streams have mail.

Each look goes down an index to its first entry and reads no more. An ``EXISTS`` with the same
conditions need not: where the statistics say that many rows are queued, PostgreSQL expects one at
once in a scan of the table, and then reads millions of finished ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from django.db import connections

from pillarbox.delivery.ways import Way
from pillarbox.models import Message, Priority, State, clock

_FIRST_IS_DUE = """COALESCE((
    SELECT due_at FROM {message} WHERE state = '{queued}' AND stream = %s
        AND priority = {priority}{marks} ORDER BY due_at, id LIMIT 1) <= {now}, FALSE)"""
_NEXT = """
SELECT {column} FROM {message} WHERE state = '{queued}' AND {column} > %s ORDER BY {column} LIMIT 1
"""


def due_ways(using: str, ways: Sequence[Way]) -> list[Way]:
    """Return those of ``ways`` by which something is due: one SELECT, and no lock."""
    if not ways:
        return []
    now, moment = now_of(using)
    columns, parameters = [], []
    for way in ways:
        marks, marked = marks_of(using, way)
        columns.append(_is_due(using, marks, now))
        parameters += [way.stream, *marked, *moment] * len(Priority.values)
    with connections[using].cursor() as cursor:
        cursor.execute(f"SELECT {', '.join(columns)}", parameters)
        found = cursor.fetchone()
    return [way for way, is_due in zip(ways, found, strict=True) if is_due]


def marks_of(using: str, way: Way) -> tuple[str, list[str]]:
    """Return the condition of a way's marks as SQL, and its parameters."""
    if way.hint:
        return _marks(using, " = %s"), [way.hint]
    if way.other_hints:
        places = ", ".join(["%s"] * len(way.other_hints))
        return _marks(using, f" NOT IN ({places})"), list(way.other_hints)
    return "", []


@cache
def _marks(using: str, condition: str) -> str:
    return f" AND {connections[using].ops.quote_name('using')}{condition}"


def now_of(using: str) -> tuple[str, list[Any]]:
    """Return the present moment as SQL, and its parameter where the clock is frozen."""
    connection = connections[using]
    if clock.frozen_at is None:
        return clock.now_sql(connection.vendor), []
    place = "%s::timestamptz" if connection.vendor == "postgresql" else "%s"
    return place, [connection.ops.adapt_datetimefield_value(clock.frozen_at)]


@cache
def _is_due(using: str, marks: str, now: str) -> str:
    quote = connections[using].ops.quote_name
    table, queued = quote(Message._meta.db_table), State.QUEUED.value
    return " OR ".join(
        _FIRST_IS_DUE.format(message=table, queued=queued, priority=each, marks=marks, now=now)
        for each in Priority.values
    )


def streams(using: str) -> Iterator[str]:
    """Yield every stream that has mail in the queue: one short query for each, and one more."""
    return _different(using, "stream")


def hints(using: str) -> Iterator[str]:
    """Yield every mailer that a queueing backend named for mail in the queue, in the same way."""
    return _different(using, "using")


def _different(using: str, column: str) -> Iterator[str]:
    quote = connections[using].ops.quote_name
    table = quote(Message._meta.db_table)
    sql = _NEXT.format(message=table, queued=State.QUEUED.value, column=quote(column))
    found = ""
    while True:
        with connections[using].cursor() as cursor:
            cursor.execute(sql, [found])
            row = cursor.fetchone()
        if row is None:
            return
        (found,) = row
        yield found
