"""Runs what is prepared by the protocol's Bind where EXECUTE would do; with psycopg 3 alone.

EXECUTE is text: the driver quotes every parameter into it, and the server reads them out again.
Sources: PostgreSQL's documentation, "Extended Query" and "Pipeline Mode"; psycopg's, ``pq`` and
``Connection.wait``.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import cache, partial
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
        driver = self._own.connection
        pgconn = driver.pgconn
        is_free = pgconn.transaction_status == self._begun and not pgconn.pipeline_status
        octets = _octets(parameters) if is_free and sql == self._call else None
        if octets is None:
            self._own.execute(sql, parameters)
            return
        generators, error_of, transformer = _of_psycopg()
        names = [name.encode() for name in self._names]
        with driver.lock:
            if len(names) > 1:
                results = driver.wait(_together(pgconn, names, octets))
            else:
                pgconn.send_query_prepared(names[0], octets)
                results = driver.wait(generators.execute(pgconn))
        result = results[-1]
        if result.status != _TUPLES_OK:
            raise error_of(next(each for each in results if each.status == _FATAL_ERROR))
        rows = transformer(driver)
        rows.set_pgresult(result)
        self.fetchone = partial(rows.load_row, 0, tuple)
        self.fetchall = partial(rows.load_rows, 0, result.ntuples, tuple)
        self.nextset = _no_more


def _no_more() -> None:
    """Say, as a cursor does, that there is no further result."""


@cache
def _of_psycopg() -> tuple[Any, Any, Any]:
    """Return what is used of psycopg, which only PostgreSQL needs."""
    from psycopg import errors, generators
    from psycopg.adapt import Transformer

    return generators, errors.error_from_result, Transformer


def _together(
    pgconn: Any, names: Sequence[bytes], octets: Sequence[bytes | None]
) -> Generator[Any, Any, list[Any]]:
    """Send all in one go, the last one with the parameters, and return the results."""
    generators, *_ = _of_psycopg()
    pgconn.enter_pipeline_mode()
    for name in names[:-1]:
        pgconn.send_query_prepared(name, [])
    pgconn.send_query_prepared(names[-1], octets)
    pgconn.pipeline_sync()
    yield from generators.send(pgconn)
    told: list[Any] = []
    while not told or told[-1].status != _PIPELINE_SYNC:
        told += yield from generators.fetch_many(pgconn)
    pgconn.exit_pipeline_mode()
    return told[:-1]
