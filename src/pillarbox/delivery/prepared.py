"""Statements that PostgreSQL plans once a connection, by PREPARE and EXECUTE; no driver's own.

A statement's name stands for its text alone. So it does no harm where a pooler hands a connection
on after each transaction, as PgBouncer does: what another client has prepared under that name is
the same, and what is missing is prepared again.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

from django.db import ProgrammingError

MISSING = "26000"  # invalid_sql_statement_name
THERE = "42P05"  # duplicate_prepared_statement

RENEW_FIRST_S = 1.0
RENEW_LAST_S = 10.0
"""How old a plan may be: what was planned over an empty table would read all of a full one. At
first 1 s, then 2, 4, 8 and 10, so that it keeps up with a table that grows."""

_NEVER = (0.0, 0.0)
_known: WeakKeyDictionary[Any, dict[str, tuple[float, float]]] = WeakKeyDictionary()
"""What the drivers' connections are known to have: until when (monotonic), and for how long."""


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
    known = _known.setdefault(connection.connection, {})
    if name not in known or connection.settings_dict["OPTIONS"].get("server_side_binding"):
        known[name] = _NEVER
        cursor.execute(sql, parameters)
        return
    if isinstance(parameters, Mapping):
        parameters = [parameters[place] for place in places]
    until, lasts_s = known[name]
    if time.monotonic() >= until:
        if lasts_s:
            done_unless(MISSING, cursor, f"DEALLOCATE {name}")
        done_unless(THERE, cursor, definition)
        lasts_s = min(2 * lasts_s or RENEW_FIRST_S, RENEW_LAST_S)
        known[name] = time.monotonic() + lasts_s, lasts_s
    if not done_unless(MISSING, cursor, call, parameters):
        done_unless(THERE, cursor, definition)
        cursor.execute(call, parameters)


def done_unless(state: str, cursor: Any, sql: str, parameters: Sequence[Any] | None = None) -> bool:
    """Run a statement and return True; False where it fails with the state, SQLSTATE."""
    try:
        cursor.execute(sql, parameters)
    except ProgrammingError as error:
        if _sqlstate(error) != state:
            raise
        return False
    return True


def _sqlstate(error: Exception) -> str | None:
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
    places = ", ".join(["%s"] * len(numbers))
    return name, definition, f"EXECUTE {name} ({places})", tuple(numbers)
