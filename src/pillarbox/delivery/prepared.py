"""Statements that PostgreSQL plans once a connection, by PREPARE and EXECUTE; no driver's own.

A statement's name stands for its text alone. So it does no harm where a pooler hands a connection
on after each transaction, as PgBouncer does: what another client has prepared under that name is
the same, and what is missing is prepared again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

from django.db import ProgrammingError

_MISSING = "26000"  # invalid_sql_statement_name
_THERE = "42P05"  # duplicate_prepared_statement

_known: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()
"""What the drivers' connections are known to have."""


def execute(connection: Any, sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Run a statement outside of any transaction and return its rows.

    ``sql`` says each parameter's type: ``%s::bigint``. Where the settings have the server bind
    parameters, which EXECUTE does not allow, it is planned each time.
    """
    with connection.cursor() as cursor:
        if connection.settings_dict["OPTIONS"].get("server_side_binding"):
            cursor.execute(sql, parameters)
        else:
            _execute(cursor, _known.setdefault(connection.connection, set()), sql, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows


def _execute(cursor: Any, known: set[str], sql: str, parameters: Sequence[Any]) -> None:
    name, definition, call = _texts(sql)
    if name not in known:
        _prepare(cursor, definition)
        known.add(name)
    try:
        cursor.execute(call, parameters)
    except ProgrammingError as error:
        if _sqlstate(error) != _MISSING:
            raise
        _prepare(cursor, definition)
        cursor.execute(call, parameters)


def _prepare(cursor: Any, definition: str) -> None:
    try:
        cursor.execute(definition)
    except ProgrammingError as error:
        if _sqlstate(error) != _THERE:
            raise


def _sqlstate(error: Exception) -> str | None:
    cause = error.__cause__
    state: str | None = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    return state


@cache
def _texts(sql: str) -> tuple[str, str, str]:
    """Return a statement's name, what prepares it, and what runs it with parameters."""
    name = f"pillarbox_{hashlib.sha256(sql.encode()).hexdigest()[:16]}"
    parts, numbers = sql.split("%s"), count(1)
    numbered = parts[0] + "".join(f"${next(numbers)}{part}" for part in parts[1:])
    places = ", ".join(["%s"] * (len(parts) - 1))
    return name, f"PREPARE {name} AS {numbered}", f"EXECUTE {name} ({places})"
