"""Statements that PostgreSQL plans once a connection, by PREPARE; no driver's own.

They run by EXECUTE, or by what costs less and does the same, see `binding`.

A statement's name stands for its text alone. So it does no harm where a pooler hands a connection
on after each transaction, as PgBouncer does: what another client has prepared under that name is
the same, and what is missing is prepared again.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any
from weakref import WeakKeyDictionary

from django.db import NotSupportedError, OperationalError, ProgrammingError

from pillarbox.delivery import binding
from pillarbox.models import Message

MISSING = "26000"  # invalid_sql_statement_name
THERE = "42P05"  # duplicate_prepared_statement
STALE = "0A000"  # feature_not_supported: a plan's result would change its type

MEASURE_FIRST_S = 1.0
MEASURE_LAST_S = 10.0
"""How often a connection asks how large the table of messages is: after 1 s, then 2, 4, 8, 10."""
GROWTH = 4
"""By how much that may have grown before a plan is made anew: what was planned over an empty table
would read all of a full one. New statistics have the server do it by itself."""


@dataclass(slots=True)
class _Known:
    """What a driver's connection has."""

    planned: dict[str, int | None] = field(default_factory=dict)
    """The statements, and how large the table was when each was prepared; None: it was not yet."""
    may_bind: bool = False
    """Whether statements may run by Bind, see `binding`."""
    has_setting: bool = False
    """Whether `_SETTING` is prepared."""
    size_bytes: int = 0
    lasts_s: float = 0.0
    measure_at: float = 0.0

    def measure(self, connection: Any, cursor: Any) -> None:
        """Ask how large the table is, and who answers, where it is time for that."""
        now = time.monotonic()
        if now < self.measure_at:
            return
        table = connection.ops.quote_name(Message._meta.db_table)
        cursor.execute("SELECT pg_relation_size(%s), pg_backend_pid()", [table])
        self.size_bytes, pid = cursor.fetchone()
        self.may_bind = binding.is_possible(connection, pid, together=True)
        self.lasts_s = min(2 * self.lasts_s or MEASURE_FIRST_S, MEASURE_LAST_S)
        self.measure_at = now + self.lasts_s


_ONE_PLAN = "SET LOCAL plan_cache_mode = force_generic_plan; "
"""For the transaction of the statement behind it: else the first five executions are each planned
for their own parameters, which takes longer than a mail's way through a drain."""
_SETTING = "SELECT set_config('plan_cache_mode', 'force_generic_plan', TRUE)"
"""The same as a statement that can be prepared."""

_known: WeakKeyDictionary[Any, _Known] = WeakKeyDictionary()

Parameters = Sequence[Any] | Mapping[str, Any]
_place = re.compile(r"%%|%(?:\((\w+)\))?s")


def execute(connection: Any, cursor: Any, sql: str, parameters: Parameters) -> None:
    """Run a statement outside of any transaction on a cursor of the connection.

    ``sql`` says each parameter's type: ``%s::bigint``, or ``%(name)s::bigint`` for those of a
    mapping, which cost less where one stands in several places. It runs as it is at first, since
    many a connection needs it once; and always where the settings have the server bind parameters,
    which EXECUTE does not allow.
    """
    name, definition, call, places = texts(sql)
    known = _known.get(connection.connection)
    if known is None:
        known = _known[connection.connection] = _Known()
    if name not in known.planned or connection.settings_dict["OPTIONS"].get("server_side_binding"):
        known.planned[name] = None
        cursor.execute(sql, parameters)
        return
    if isinstance(parameters, Mapping):
        parameters = [parameters[place] for place in places]
    known.measure(connection, cursor)
    size_bytes = known.planned[name]
    if size_bytes is None or known.size_bytes > GROWTH * size_bytes:
        if size_bytes is not None:
            done_unless(MISSING, cursor.execute, f"DEALLOCATE {name}")
        done_unless(THERE, cursor.execute, definition)
        known.planned[name] = known.size_bytes
    run, needed, call = cursor.execute, {name: definition}, _ONE_PLAN + call
    if known.may_bind:
        setting, its_definition, *_ = texts(_SETTING)
        run = partial(binding.execute, connection, cursor, [setting, name])
        needed[setting] = its_definition
        if not known.has_setting:
            done_unless(THERE, cursor.execute, its_definition)
            known.has_setting = True
    run_prepared(cursor, run, needed, call, parameters)
    if connection.Database.__name__ == "psycopg":  # the older driver stands at the last result
        cursor.nextset()


def run_prepared(
    cursor: Any,
    run: Callable[..., Any],
    definitions: Mapping[str, str],
    call: str,
    parameters: Sequence[Any],
) -> None:
    """Run a call of what is prepared, outside of any transaction; prepare that anew if need be.

    ``definitions`` are the statements' by their names. Missing are all of them, or one, as behind
    a pooler. Stale is one that returns a column of which a migration has changed the type.
    """
    fault = _fault({MISSING, STALE}, run, call, parameters)
    if fault is None:
        return
    for name, definition in definitions.items():
        if fault == STALE:
            done_unless(MISSING, cursor.execute, f"DEALLOCATE {name}")
        done_unless(THERE, cursor.execute, definition)
    run(call, parameters)


def done_unless(
    state: str, execute: Callable[..., Any], sql: str, parameters: Sequence[Any] | None = None
) -> bool:
    """Execute a statement and return True; False where it fails with the state, SQLSTATE."""
    return _fault({state}, execute, sql, parameters) is None


def _fault(
    states: Set[str],
    execute: Callable[..., Any],
    sql: str,
    parameters: Sequence[Any] | None = None,
) -> str | None:
    """Execute a statement and return None; the state where it fails with one of these."""
    try:
        execute(sql, parameters)
    except (ProgrammingError, OperationalError, NotSupportedError) as error:
        # A missing statement is an operational error to psycopg 2, and a programmer's to psycopg 3.
        state = sqlstate_of(error)
        if state not in states:
            raise
        return state
    return None


def sqlstate_of(error: BaseException) -> str | None:
    """Return what PostgreSQL calls the error; psycopg 3 and 2 keep it under two names."""
    cause = error.__cause__
    state: str | None = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    return state


@lru_cache(maxsize=256)
def texts(sql: str) -> tuple[str, str, str, tuple[str, ...]]:
    """Return a statement's name, what prepares it, what runs it, and the names of its parameters.

    A parameter without a name has its number for one.
    """
    name = f"pillarbox_{hashlib.sha256(sql.encode()).hexdigest()[:16]}"
    numbers: dict[str, int] = {}

    def numbered(place: re.Match[str]) -> str:
        if place[0] == "%%":
            return "%"
        return f"${numbers.setdefault(place[1] or str(len(numbers)), len(numbers) + 1)}"

    definition = f"PREPARE {name} AS {_place.sub(numbered, sql)}"
    places = f" ({', '.join(['%s'] * len(numbers))})" if numbers else ""
    return name, definition, f"EXECUTE {name}{places}", tuple(numbers)
