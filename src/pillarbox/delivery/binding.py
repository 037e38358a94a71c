"""Runs what is prepared by the protocol's Bind where EXECUTE would do; with psycopg 3 alone.

EXECUTE is text: the driver quotes every parameter into it, and the server reads them out again.
Sources: PostgreSQL's documentation, "Extended Query" and "Pipeline Mode"; psycopg's, ``pq`` and
``Connection.wait``.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import partial
from typing import Any

from django.db.backends.utils import CursorWrapper

_DJANGOS = "django.db.backends.postgresql.base"
_IDLE, _IN_TRANSACTION = 0, 2  # libpq's PQTRANS_IDLE, PQTRANS_INTRANS
_TUPLES_OK, _FATAL_ERROR, _PIPELINE_SYNC = 2, 7, 10  # libpq's PGRES_…


def is_direct(connection: Any, pid: int) -> bool:
    """Whether the driver is connected to the server's process ``pid`` itself.

    A pooler says another number. It may know only what was prepared by the protocol, and end the
    connection of who asks for anything else.
    """
    pgconn = getattr(connection.connection, "pgconn", None)
    return pgconn is not None and pgconn.backend_pid == pid


def execute(
    connection: Any,
    cursor: Any,
    names: Sequence[str],
    call: str,
    parameters: Sequence[Any],
) -> None:
    """Run prepared statements on a cursor of the connection, which then has the last one's rows.

    All but the last, which has the parameters, are without; outside of transactions they are one
    together. By ``call``, which has their EXECUTE, where somebody is to see the text or has changed
    it (Django's log of queries and its wrappers, other people's cursors), and where a parameter is
    neither text nor a number.
    """
    own = cursor.cursor
    if type(cursor) is not CursorWrapper or type(own).__module__ != _DJANGOS:
        cursor.execute(call, parameters)
        return
    begun = _IN_TRANSACTION if connection.in_atomic_block else _IDLE
    cursor.cursor = _Bound(own, names, call, begun)
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
    """The driver's cursor ``own``, but for its running the statements ``names`` by Bind."""

    def __init__(self, own: Any, names: Sequence[str], call: str, begun: int) -> None:
        self._own = own
        self._names = names
        self._call = call
        self._begun = begun

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def execute(self, sql: str, parameters: Sequence[Any]) -> None:
        """Run them; or the text, if that is another or the connection is in another state.

        psycopg begins a transaction with the first statement that it runs itself.
        """
        from psycopg import errors
        from psycopg.adapt import Transformer

        driver = self._own.connection
        pgconn = driver.pgconn
        is_free = pgconn.transaction_status == self._begun and not pgconn.pipeline_status
        octets = _octets(parameters) if is_free and sql == self._call else None
        if octets is None:
            self._own.execute(sql, parameters)
            return
        with driver.lock:
            result = driver.wait(_run(pgconn, [name.encode() for name in self._names], octets))
        if result.status != _TUPLES_OK:
            raise errors.error_from_result(result)
        rows = Transformer(driver)
        rows.set_pgresult(result)
        self.fetchone = partial(rows.load_row, 0, tuple)
        self.fetchall = partial(rows.load_rows, 0, result.ntuples, tuple)
        self.nextset = _no_more


def _no_more() -> None:
    """Say, as a cursor does, that there is no further result."""


def _run(
    pgconn: Any, names: Sequence[bytes], octets: Sequence[bytes | None]
) -> Generator[Any, Any, Any]:
    """Send the statements and return the last one's result, or that of the one that failed."""
    from psycopg import generators

    if len(names) > 1:
        pgconn.enter_pipeline_mode()
        for name in names[:-1]:
            pgconn.send_query_prepared(name, [])
    pgconn.send_query_prepared(names[-1], octets)
    if len(names) == 1:
        (result,) = yield from generators.execute(pgconn)
        return result
    pgconn.pipeline_sync()
    yield from generators.send(pgconn)
    told: list[Any] = []
    while not told or told[-1].status != _PIPELINE_SYNC:
        told += yield from generators.fetch_many(pgconn)
    pgconn.exit_pipeline_mode()
    return next((result for result in told if result.status == _FATAL_ERROR), told[-2])
