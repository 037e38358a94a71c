"""Looks at the queue without touching it: what is due by which way, which streams have mail.

Each look goes down an index to its first entry and reads no more. An ``EXISTS`` with the same
conditions need not: where the statistics say that many rows are queued, PostgreSQL expects one at
once in a scan of the table, and then reads millions of finished ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from django.db import connections

from pillarbox.delivery import database
from pillarbox.delivery.ways import Way
from pillarbox.models import Circuit, Drain, Message, Pause, Priority, State, clock

_FIRST_IS_DUE = """COALESCE((
    SELECT due_at FROM {message} WHERE state = '{queued}' AND stream = %s
        AND priority = {priority}{marks} ORDER BY due_at, id LIMIT 1) <= {now}, FALSE)"""
# A step down an index for each name, and no recursion: of that PostgreSQL expects a hundred names,
# and so much work that it compiles the statement first, for longer than it runs.
_NEXT = """(SELECT {column} FROM {message} WHERE state = '{queued}' AND {column} > {name}
    ORDER BY {column} LIMIT 1)"""
_SURVEY = """SELECT 's', first.name, {further} FROM (SELECT {stream} AS name) AS first
UNION ALL SELECT 'h', {hint}, NULL
UNION ALL SELECT 'p', stream, NULL FROM {pause}
UNION ALL SELECT 'u', mailer, NULL FROM {circuit} WHERE state <> 'closed' OR paused"""
# Those in hand stand at one place of an index. The LIMIT keeps PostgreSQL to it where it believes
# that more than that are: to the first of so many no other way is as short.
_ARE_DEAD = """SELECT EXISTS (SELECT 1 FROM {drain} WHERE lease_until <= {now}) OR EXISTS (
    SELECT 1 FROM (
        SELECT drain FROM {message} WHERE state = '{sending}' ORDER BY finished_at LIMIT 10000
    ) AS held
    WHERE drain IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM {drain} AS live WHERE live.id = held.drain AND live.lease_until > {now}))"""
FIRST_NAMES = ("", "")
"""The parameters of the first survey's statement: no stream and no mailer comes before."""


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
    (found,) = _rows(using, f"SELECT {', '.join(columns)}", parameters)
    return [way for way, is_due in zip(ways, found, strict=True) if is_due]


def are_any_dead(using: str) -> bool:
    """Whether a lease has run out, or a message is claimed by a drain that has none."""
    now, moment = now_of(using)
    ((are_dead,),) = _rows(using, _dead_sql(using, now), moment * 2)
    return bool(are_dead)


@cache
def _dead_sql(using: str, now: str) -> str:
    quote = connections[using].ops.quote_name
    message, drain = quote(Message._meta.db_table), quote(Drain._meta.db_table)
    return _ARE_DEAD.format(message=message, drain=drain, sending=State.SENDING.value, now=now)


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


@dataclass(frozen=True)
class Survey:
    """What mail the queue has, due or not, and what is kept from it."""

    streams: list[str]
    """Every stream that has mail in the queue."""
    hints: list[str]
    """Every mailer that a queueing backend named for mail in the queue."""
    paused: set[str]
    """The streams that an operator has paused, whether they have mail or not."""
    unwell: set[str]
    """The mailers that do not carry: their circuits are not closed, or they are paused."""


def survey(using: str, rows: Sequence[tuple[Any, ...]] = ()) -> Survey:
    """Look which streams, hints, pauses and unwell mailers there are, without a lock.

    One SELECT finds two streams and a hint, as many as most projects have; one more the next.
    ``rows`` are those of the first one where it was asked already.
    """
    streams, hints = ([name] for name in FIRST_NAMES)
    found: dict[str, list[str]] = {"s": streams, "h": hints, "p": [], "u": []}
    is_more = True
    while is_more:
        before = len(streams), len(hints)
        for kind, *names in rows or _rows(using, survey_sql(using), (streams[-1], hints[-1])):
            found[kind] += [name for name in names if name is not None]
        rows = ()
        is_more = len(streams) > before[0] + 1 or len(hints) > before[1]
    return Survey(streams[1:], hints[1:], set(found["p"]), set(found["u"]))


def _rows(using: str, sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Run a look, which a drain does every 5 ms: PostgreSQL plans it as long as it runs it."""
    if database.prepares(using):
        return database.execute(using, sql, parameters, prepare=True)
    with connections[using].cursor() as cursor:
        cursor.execute(sql, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows


@cache
def survey_sql(using: str) -> str:
    """Return the SELECT of a survey; its parameters are the last stream and hint that are known."""
    quote = connections[using].ops.quote_name
    kept = {"message": quote(Message._meta.db_table), "queued": State.QUEUED.value}
    stream, hint = quote("stream"), quote("using")
    return _SURVEY.format(
        stream=_NEXT.format(column=stream, name="%s", **kept),
        further=_NEXT.format(column=stream, name="first.name", **kept),
        hint=_NEXT.format(column=hint, name="%s", **kept),
        pause=quote(Pause._meta.db_table),
        circuit=quote(Circuit._meta.db_table),
    )
