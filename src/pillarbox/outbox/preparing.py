"""The INSERT of one row, prepared for connections that make it often; on PostgreSQL alone.

To parse and plan it is a good part of what it costs the server. Unlike a worker's statements
(`pillarbox.delivery.prepared`) its plan does not depend on how full a table is, and never ages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from pillarbox.delivery import binding
from pillarbox.delivery.prepared import THERE, done_unless, run_prepared, texts

AFTER = 5
"""So many times it runs as it is: what is made for one mail is spared PREPARE."""

_LOOK = "SELECT pg_backend_pid(), count(*) FROM pg_prepared_statements WHERE name = %s"


@dataclass(slots=True)
class _Known:
    """How often a driver's connection has run each statement as it is, up to `AFTER`."""

    may_bind: bool = False
    """Whether the statements may run by Bind, see `binding`."""
    outside: dict[str, int] = field(default_factory=dict)
    within: dict[str, int] = field(default_factory=dict)
    """In the present transaction, or the last one."""
    hooks: list[Any] | None = None
    """That transaction's list of hooks: Django makes a new one for each, and after a rollback."""


_known: WeakKeyDictionary[Any, _Known] = WeakKeyDictionary()


def execute(connection: Any, cursor: Any, sql: str, parameters: Sequence[Any]) -> None:
    """Run the INSERT on a cursor of the connection, prepared where that is of use and of no harm.

    A pooler may hand on another connection, without the statement. Outside of transactions that
    is seen, and it is prepared again. A transaction would not survive it, but keeps its connection:
    each finds out for itself. The name is made of the text, so that what another client has
    prepared under it is the same.
    """
    found = _known_of(connection)
    if found is None:
        cursor.execute(sql, parameters)
        return
    known, runs = found
    times = runs.get(sql, 0)
    if times < AFTER:
        cursor.execute(sql, parameters)
        runs[sql] = times + 1
        return
    name, definition, call, _ = texts(sql)
    if times == AFTER:
        _prepare(connection, cursor, name, definition, known)
    run = partial(binding.execute, connection, cursor, [name]) if known.may_bind else cursor.execute
    if connection.in_atomic_block:
        run(call, parameters)
    else:
        run_prepared(cursor, run, {name: definition}, call, parameters)
    runs[sql] = AFTER + 1


def _known_of(connection: Any) -> tuple[_Known, dict[str, int]] | None:
    """Return what is known of the driver's connection, and its counts of now; None: stay plain.

    Django's ``DISABLE_SERVER_SIDE_CURSORS`` tells of a pooler of transactions. Where the server
    binds the parameters EXECUTE takes none, and psycopg prepares by itself where it may. Who has
    turned autocommit off ends transactions by hand, which nobody sees.
    """
    settings = connection.settings_dict
    if (
        connection.vendor != "postgresql"
        or settings.get("DISABLE_SERVER_SIDE_CURSORS")
        or settings["OPTIONS"].get("server_side_binding")
    ):
        return None
    known = _known.get(connection.connection)
    if known is None:
        known = _known[connection.connection] = _Known()
    if not connection.in_atomic_block:
        known.hooks = None
        return (known, known.outside) if connection.autocommit else None
    if known.hooks is not connection.run_on_commit:
        known.hooks, known.within = connection.run_on_commit, {}
    return (known, known.within) if connection.commit_on_exit else None


def _prepare(connection: Any, cursor: Any, name: str, definition: str, known: _Known) -> None:
    """Prepare it unless it is there, which within a transaction would end that.

    By the driver's own cursor, as if the driver did it: whoever counts queries in a test counts
    one a mail.
    """
    connection.validate_no_broken_transaction()
    run = connection.wrap_database_errors(cursor.cursor.execute)
    run(_LOOK, [name])
    pid, is_there = cursor.cursor.fetchone()
    known.may_bind = binding.is_possible(connection, pid)
    if not is_there:
        done_unless(THERE, run, definition)
