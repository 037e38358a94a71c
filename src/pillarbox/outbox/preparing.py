"""The INSERT of one row, prepared for connections that make it often; PostgreSQL's PREPARE alone.

To parse and plan it costs the server as much as to run it. Unlike a worker's statements
(`pillarbox.delivery.prepared`) its plan does not depend on how full a table is, and never ages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from pillarbox.delivery.prepared import MISSING, THERE, done_unless, texts

AFTER = 5
"""So many times a connection runs it as it is: one that is made for a request is spared PREPARE."""

_runs: WeakKeyDictionary[Any, dict[str, int]] = WeakKeyDictionary()
"""How often the drivers' connections have run a statement as it is, up to `AFTER`."""


def execute(connection: Any, cursor: Any, sql: str, parameters: Sequence[Any]) -> None:
    """Run the INSERT on a cursor of the connection, prepared where that is of use and of no harm.

    Never within a transaction, which would not survive that a pooler has handed on another
    connection, without the statement: there that is seen, and it is prepared again. Its name is
    made of its text, so that what another client has prepared under it is the same.
    """
    if not _may_prepare(connection):
        cursor.execute(sql, parameters)
        return
    runs = _runs.setdefault(connection.connection, {})
    times = runs.get(sql, 0)
    if times < AFTER:
        cursor.execute(sql, parameters)
        runs[sql] = times + 1
        return
    _, definition, call, _ = texts(sql)
    if times == AFTER:
        done_unless(THERE, cursor, definition)
        runs[sql] = times + 1
    if not done_unless(MISSING, cursor, call, parameters):
        done_unless(THERE, cursor, definition)
        cursor.execute(call, parameters)


def _may_prepare(connection: Any) -> bool:
    """Whether nobody's transaction is open, and the settings say nothing against it.

    Django's ``DISABLE_SERVER_SIDE_CURSORS`` tells of a pooler of transactions. Where the server
    binds the parameters EXECUTE takes none, and psycopg prepares by itself where it may.
    """
    settings = connection.settings_dict
    return (
        connection.vendor == "postgresql"
        and not connection.in_atomic_block
        and not settings.get("DISABLE_SERVER_SIDE_CURSORS")
        and not settings["OPTIONS"].get("server_side_binding")
    )
