"""Runs what is prepared by the protocol's Bind where EXECUTE would do; with psycopg 3 alone.

EXECUTE is text: the driver quotes every parameter into it, and the server reads them out again.
Sources: PostgreSQL's documentation, "Extended Query"; psycopg's, ``pq`` and ``Connection.wait``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from django.db.backends.utils import CursorWrapper

_DJANGOS = "django.db.backends.postgresql.base"
_TUPLES_OK = 2  # libpq's PGRES_TUPLES_OK
_IDLE, _IN_TRANSACTION = 0, 2  # PQTRANS_IDLE, PQTRANS_INTRANS


def is_direct(connection: Any, pid: int) -> bool:
    """Whether the driver is connected to the server's process ``pid`` itself.

    A pooler says another number. It may know only what was prepared by the protocol, and end the
    connection of who asks for anything else.
    """
    pgconn = getattr(connection.connection, "pgconn", None)
    return pgconn is not None and pgconn.backend_pid == pid


def execute(connection: Any, cursor: Any, name: str, call: str, parameters: Sequence[Any]) -> None:
    """Run a prepared statement on a cursor of the connection, which then has its row: of numbers.

    By ``call``, its EXECUTE, where somebody is to see the text or has changed it (Django's log of
    queries and its wrappers, other people's cursors), and where a parameter is not as usual.
    """
    own = cursor.cursor
    if type(cursor) is not CursorWrapper or type(own).__module__ != _DJANGOS:
        cursor.execute(call, parameters)
        return
    begun = _IN_TRANSACTION if connection.in_atomic_block else _IDLE
    cursor.cursor = _Bound(own, name, call, begun)
    try:
        cursor.execute(call, parameters)
    except BaseException:
        cursor.cursor = own
        raise


def _octets(parameters: Sequence[Any]) -> list[bytes | None] | None:
    """Return parameters as the protocol's text; None where one has no such form."""
    octets: list[bytes | None] = []
    for value in parameters:
        if value is None:
            octets.append(None)
        elif isinstance(value, str) and "\0" not in value:
            octets.append(value.encode())
        elif isinstance(value, int):
            octets.append(b"%d" % value)  # of a boolean, too: PostgreSQL reads 1 and 0
        else:
            return None
    return octets


class _Bound:
    """What Django's cursor needs of the driver's, ``own``, to run the one statement ``name``."""

    def __init__(self, own: Any, name: str, call: str, begun: int) -> None:
        self.connection = own.connection
        self.fetchone = own.fetchone
        self.close = own.close
        self._own = own
        self._name = name
        self._call = call
        self._begun = begun

    def execute(self, sql: str, parameters: Sequence[Any]) -> None:
        """Run it; or the text, if that is another or the connection is in another state.

        psycopg begins a transaction with the first statement that it runs itself.
        """
        from psycopg import errors, generators

        driver = self.connection
        pgconn = driver.pgconn
        is_free = pgconn.transaction_status == self._begun and not pgconn.pipeline_status
        octets = _octets(parameters) if is_free and sql == self._call else None
        if octets is None:
            self._own.execute(sql, parameters)
            return
        with driver.lock:
            pgconn.send_query_prepared(self._name.encode(), octets)
            (result,) = driver.wait(generators.execute(pgconn))
        if result.status != _TUPLES_OK:
            raise errors.error_from_result(result)
        self.fetchone = partial(_row, result)


def _row(result: Any) -> tuple[int, ...]:
    return tuple([int(result.get_value(0, column)) for column in range(result.nfields)])
