"""The worker's own short transactions and statements, repeated where the database asks for it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from django.db import DataError, InterfaceError, OperationalError, connections, transaction
from django.db.models import Model, QuerySet

from pillarbox.delivery import prepared, waiting
from pillarbox.delivery.prepared import Parameters

T = TypeVar("T")
M = TypeVar("M", bound=Model)

_TRIES = 8
_LOCKED_SQLSTATES = frozenset({"40001", "40P01", "55P03"})  # serialization, deadlock, lock timeout
_LOCKED_MYSQL = frozenset({1205, 1213, 1020})  # lock wait, deadlock, record has changed
_UNSTORABLE_MYSQL = frozenset({1366, 3988})  # a text that the column's character set cannot hold


def is_lock_conflict(error: BaseException) -> bool:
    """Whether the same transaction may succeed when it is tried again."""
    if prepared.sqlstate_of(error) in _LOCKED_SQLSTATES or number_of(error) in _LOCKED_MYSQL:
        return True
    return "locked" in str(error)  # SQLite: "database is locked", "database table is locked"


def number_of(error: BaseException) -> Any:
    """Return MySQL's number of the error; of other drivers' errors something that is none."""
    cause = error.__cause__
    return cause.args[0] if cause is not None and cause.args else None


def run(using: str, work: Callable[[], T]) -> T:
    """Run ``work`` in a durable transaction and return what it returns.

    Deadlocks and busy databases are tried again, up to 8 times with a jittered pause of 1 ms
    doubled each time. Any other error of the connection discards it, so that the next call opens a
    new one, and is raised. A text that cannot be stored is a DataError with every driver.
    """

    def transact() -> T:
        with transaction.atomic(using=using, durable=True):
            return work()

    return _repeat(using, transact)


def run_alone(using: str, work: Callable[[], T]) -> T:
    """Do as `run` does with a ``work`` that is one statement, which needs no BEGIN and COMMIT."""
    return _repeat(using, work) if is_between(using) else run(using, work)


def is_between(using: str) -> bool:
    """Whether no transaction is open and each statement is one, as Django has it by default."""
    connection = connections[using]
    return not connection.in_atomic_block and bool(connection.get_autocommit())


def prepares(using: str) -> bool:
    """Whether `execute` may prepare: on PostgreSQL, for a statement that is its own transaction."""
    return connections[using].vendor == "postgresql" and is_between(using)


def execute(
    using: str,
    sql: str,
    parameters: Parameters,
    *,
    prepare: bool = False,
    meanwhile: Callable[[], None] | None = None,
) -> list[tuple[Any, ...]]:
    """Run one statement that is its own transaction, and return its rows; repeated as `run` is.

    With ``prepare`` PostgreSQL plans it once for many times, see `prepared`; ``meanwhile`` may be
    called while the statement runs, see `waiting`.
    """
    connection = connections[using]

    def work() -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor, waiting.busy(connection, meanwhile):
            if prepare:
                prepared.execute(connection, cursor, sql, parameters)
            else:
                cursor.execute(sql, parameters)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
            return rows

    return _repeat(using, work)


def _repeat(using: str, work: Callable[[], T]) -> T:
    for trial in range(_TRIES):
        try:
            return work()
        except (OperationalError, InterfaceError) as error:
            if number_of(error) in _UNSTORABLE_MYSQL:
                raise DataError(*error.args) from error.__cause__
            if not is_lock_conflict(error):
                discard(using)
                raise
            if trial == _TRIES - 1:
                raise
            time.sleep(0.001 * 2**trial * (0.5 + random.random()))
    raise AssertionError("unreachable")


def skip_locked(rows: QuerySet[M]) -> QuerySet[M]:
    """Lock the rows of the query, leaving out what others have locked, where that exists.

    Elsewhere (SQLite) the transaction has begun with a write, which locks out every other writer.
    """
    features = connections[rows.db].features
    if not features.has_select_for_update:
        return rows
    return rows.select_for_update(skip_locked=features.has_select_for_update_skip_locked)


def discard(using: str) -> None:
    """Close this thread's connection, unless a caller's transaction is open on it."""
    connection = connections[using]
    if not connection.in_atomic_block:
        connection.close()


def update_free(rows: QuerySet[M], **values: Any) -> int:
    """Update those of a few rows that nobody has locked, and return how many they were.

    A process that was stopped within a transaction keeps its rows locked for as long as it stands
    still, and must not stop those that would write to them.
    """
    if not connections[rows.db].features.has_select_for_update:
        return rows.update(**values)
    free = sorted(skip_locked(rows.order_by("pk")).values_list("pk", flat=True))
    # One by one: of several in a small table MariaDB would read them all, and wait.
    return sum(rows.filter(pk=pk).update(**values) for pk in free)
