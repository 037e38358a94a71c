"""A group commit of plain results and begins by SQL written by hand, for the common case.

It does what `ledger` does, under the same guards: a result is written where the row is still this
drain's with that begin, and a message is begun where it is still this drain's and not begun. On
PostgreSQL that is one statement, which is its own transaction; on SQLite a few for all rows, or
none. What is left undone, for whatever reason, the ledger's own way is there to judge.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from django.db import connections

from pillarbox.delivery import database
from pillarbox.models import Attempt, Message, Recipient, State

Rows = Sequence[Mapping[str, Any]]

# Rows are found and locked by the primary key alone and judged after that: given more conditions
# the planner may go by an index over thousands of rows of the same state. The keys are read out of
# the rows that are given: an array as a parameter has small groups planned each time, which costs
# more than what they do. A row that somebody has locked is waited for where it has a result, and
# passed by where it is to begin.
_STATEMENT = """
WITH result AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%s::json) AS r(
        pk bigint, begun_at timestamptz, attempts integer, finished_at timestamptz, mailer text,
        server text, started_at timestamptz, took_ms integer, result text, stage text,
        code smallint, enhanced_code text, reply text)
), mine AS (
    SELECT id, state, drain, begun_at FROM {message}
    WHERE id = ANY(ARRAY(SELECT pk FROM result)) ORDER BY id FOR UPDATE
), recorded AS (
    UPDATE {message} AS m
    SET state = '{sent}', finished_at = result.finished_at, drain = NULL, begun_at = NULL,
        attempts = result.attempts, mailer = result.mailer
    FROM mine JOIN result ON result.pk = mine.id AND result.begun_at = mine.begun_at
    WHERE m.id = mine.id AND mine.state = '{sending}' AND mine.drain = %s::uuid
    RETURNING m.id
), trail AS (
    INSERT INTO {attempt} (message_id, mailer, server, drain, started_at, took_ms, result, stage,
        code, enhanced_code, reply)
    SELECT pk, mailer, server, %s::uuid, started_at, took_ms, result, stage, code, enhanced_code,
        reply
    FROM result JOIN recorded ON recorded.id = pk
), served AS (
    INSERT INTO {recipient} (message_id, kind, address, state, code, enhanced_code, reply,
        updated_at)
    SELECT message_id, kind, address, state, code, enhanced_code, reply, updated_at
    FROM json_to_recordset(%s::json) AS r(
        message_id bigint, kind text, address text, state text, code smallint,
        enhanced_code text, reply text, updated_at timestamptz)
    JOIN recorded ON recorded.id = message_id
), wanted AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%s::json) AS w(pk bigint, attempts integer, mailer text)
), free AS (
    SELECT id, state, drain, begun_at, attempts FROM {message}
    WHERE id = ANY(ARRAY(SELECT pk FROM wanted)) AND (SELECT count(*) FROM recorded) = %s::integer
    ORDER BY id FOR UPDATE SKIP LOCKED
), begun AS (
    UPDATE {message} AS m SET begun_at = %s::timestamptz, mailer = wanted.mailer
    FROM free JOIN wanted ON wanted.pk = free.id AND wanted.attempts = free.attempts
    WHERE m.id = free.id AND free.state = '{sending}' AND free.drain = %s::uuid
        AND free.begun_at IS NULL
    RETURNING m.id
)
SELECT id, TRUE FROM recorded UNION ALL SELECT id, FALSE FROM begun
"""

_to_json: Callable[[Rows], str] = json.JSONEncoder(default=datetime.isoformat).encode


def is_possible(using: str) -> bool:
    """Whether there is such SQL for the database, and no transaction is open."""
    return connections[using].vendor in _BY_VENDOR and database.is_between(using)


def record_and_begin(
    drain: uuid.UUID, using: str, now: datetime, results: Rows, recipients: Rows, begins: Rows
) -> tuple[set[int], set[int]]:
    """Write results and, if all of them could be written, begins; return the keys of both.

    ``results`` are those of messages sent to everybody, ``recipients`` whom they were sent to,
    ``begins`` what is to begin; ``now`` is when they do. Commits, unless it raises what the
    database raises: then nobody knows.
    """
    by_hand = _BY_VENDOR[connections[using].vendor]
    return by_hand(drain, using, now, results, recipients, begins)


def _at_once(
    drain: uuid.UUID, using: str, now: datetime, results: Rows, recipients: Rows, begins: Rows
) -> tuple[set[int], set[int]]:
    parameters = (
        _to_json(results),
        drain,
        drain,
        _to_json(recipients),
        _to_json(begins),
        len(results),
        now,
        drain,
    )
    rows = database.execute(using, _sql(using, _STATEMENT), parameters, prepare=True)
    recorded = {pk for pk, is_recorded in rows if is_recorded}
    return recorded, {pk for pk, is_recorded in rows if not is_recorded}


_ATTEMPT = (
    "mailer",
    "server",
    "started_at",
    "took_ms",
    "result",
    "stage",
    "code",
    "enhanced_code",
    "reply",
)
_RECIPIENT = (
    "message_id",
    "kind",
    "address",
    "state",
    "code",
    "enhanced_code",
    "reply",
    "updated_at",
)
_RECORD = """
UPDATE {message} SET state = '{sent}', finished_at = %s, drain = NULL, begun_at = NULL,
    attempts = %s, mailer = %s
WHERE id = %s AND state = '{sending}' AND drain = %s AND begun_at = %s
"""
_TRAIL = """
INSERT INTO {attempt} (message_id, drain, mailer, server, started_at, took_ms, result, stage,
    code, enhanced_code, reply)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""
_SERVED = """
INSERT INTO {recipient} (message_id, kind, address, state, code, enhanced_code, reply, updated_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
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
        return {row["pk"] for row in results}, {row["pk"] for row in begins}

    try:
        return database.run(using, work)
    except _NotAll:
        return set(), set()


def _few(
    drain: uuid.UUID, using: str, now: datetime, results: Rows, recipients: Rows, begins: Rows
) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
    """Yield each statement with the parameters of its rows."""
    connection = connections[using]
    mine = Message._meta.get_field("drain").get_db_prep_value(drain, connection)

    def rows(given: Rows, *names: str) -> list[tuple[Any, ...]]:
        """Return columns of all rows as the database keeps them."""
        return [tuple(_kept(row[name], connection) for name in names) for row in given]

    own = {"drain": mine, "now": now}
    results, begins = ([{**row, **own} for row in given] for given in (results, begins))
    yield _RECORD, rows(results, "finished_at", "attempts", "mailer", "pk", "drain", "begun_at")
    yield _TRAIL, rows(results, "pk", "drain", *_ATTEMPT)
    yield _SERVED, rows(recipients, *_RECIPIENT)
    yield _BEGIN, rows(begins, "now", "mailer", "pk", "drain", "attempts")


def _kept(value: Any, connection: Any) -> Any:
    is_moment = isinstance(value, datetime)
    return connection.ops.adapt_datetimefield_value(value) if is_moment else value


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


_BY_VENDOR = {"postgresql": _at_once, "sqlite": _all_or_none}
