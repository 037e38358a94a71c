"""Runs what is prepared by the protocol's Bind where EXECUTE would do; with psycopg 3 alone.

EXECUTE is text: the driver quotes every parameter into it, and the server reads them out again.
Sources: PostgreSQL's documentation, "Extended Query" and "Pipeline Mode"; psycopg's, ``pq`` and
``Connection.wait``.
"""

from __future__ import annotations

import uuid
from collections.abc import Generator, Sequence
from datetime import timedelta
from functools import cache
from types import SimpleNamespace
from typing import Any

from django.db.backends.utils import CursorWrapper

_DJANGOS = "django.db.backends.postgresql.base"
_IDLE, _IN_TRANSACTION = 0, 2  # libpq's PQTRANS_IDLE, PQTRANS_INTRANS
_TUPLES_OK, _FATAL_ERROR, _PIPELINE_SYNC = 2, 7, 10  # libpq's PGRES_…


def is_possible(connection: Any, pid: int, *, together: bool = False) -> bool:
    """Whether the driver is connected to the server's process ``pid`` itself.

    A pooler says another number. It may know only what was prepared by the protocol, and end the
    connection of who asks for anything else. Several statements ``together`` need libpq 14, too.
    """
    pgconn = getattr(connection.connection, "pgconn", None)
    if pgconn is None or pgconn.backend_pid != pid:
        return False
    return not together or bool(connection.Database.Pipeline.is_supported())


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
    of a kind that has no form here.
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
        elif isinstance(value, uuid.UUID):
            octets.append(str(value).encode())
        elif isinstance(value, timedelta):
            octets.append(b"%d d %d s %d us" % (value.days, value.seconds, value.microseconds))
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
        self._result: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def execute(self, sql: str, parameters: Sequence[Any]) -> None:
        """Run them; or the text, if that is another or the connection is in another state.

        psycopg begins a transaction with the first statement that it runs itself.
        """
        driver = self._own.connection
        octets = _octets(parameters) if self._is_free(driver.pgconn) and sql == self._call else None
        if octets is None:
            self._own.execute(sql, parameters)
            return
        names = [name.encode() for name in self._names]
        with driver.lock:
            self._result = driver.wait(_run(driver.pgconn, names, octets))

    def _is_free(self, pgconn: Any) -> bool:
        return (
            pgconn.transaction_status == self._begun
            and not pgconn.pipeline_status
            and pgconn.parameter_status(b"client_encoding") == b"UTF8"  # unless SET by hand
        )

    def fetchone(self) -> Any:
        """Return the first row, or None."""
        return self._own.fetchone() if self._result is None else next(iter(self._rows()), None)

    def fetchall(self) -> Any:
        """Return all rows."""
        return self._own.fetchall() if self._result is None else self._rows()

    def nextset(self) -> Any:
        """Go to the next result of a text; there is none of a Bind."""
        return self._own.nextset() if self._result is None else None

    def _rows(self) -> Any:
        rows = _of_psycopg().Transformer(self._own)
        rows.set_pgresult(self._result)
        return rows.load_rows(0, self._result.ntuples, tuple)


def _run(
    pgconn: Any, names: Sequence[bytes], octets: Sequence[bytes | None]
) -> Generator[Any, Any, Any]:
    """Send the statements, and return the last one's result. Raise what any of them fails with."""
    psycopg = _of_psycopg()
    if len(names) == 1:
        pgconn.send_query_prepared(names[0], octets)
        results = yield from psycopg.generators.execute(pgconn)
    else:
        results = yield from _run_together(pgconn, names, octets)
    for result in results:
        if result.status == _FATAL_ERROR:
            raise psycopg.errors.error_from_result(result)
    result = results[len(names) - 1] if len(results) >= len(names) else None
    if result is None or result.status != _TUPLES_OK:
        raise psycopg.errors.InternalError("A prepared statement has returned no rows.")
    return result


def _run_together(
    pgconn: Any, names: Sequence[bytes], octets: Sequence[bytes | None]
) -> Generator[Any, Any, list[Any]]:
    generators = _of_psycopg().generators
    pgconn.enter_pipeline_mode()
    for name in names[:-1]:
        pgconn.send_query_prepared(name, [])
    pgconn.send_query_prepared(names[-1], octets)
    pgconn.pipeline_sync()
    yield from generators.send(pgconn)
    results: list[Any] = []
    # One more than are expected, for what fails at the COMMIT, as a deferred constraint does. Not
    # until the end: a connection that broke has none.
    for _ in range(len(names) + 2):
        results += yield from generators.fetch_many(pgconn)
        if results and results[-1].status == _PIPELINE_SYNC:
            pgconn.exit_pipeline_mode()
            break
    return results


@cache
def _of_psycopg() -> SimpleNamespace:
    """Return what is used of psycopg, which only PostgreSQL needs."""
    from psycopg import errors, generators
    from psycopg.adapt import Transformer

    return SimpleNamespace(errors=errors, generators=generators, Transformer=Transformer)
