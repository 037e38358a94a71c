"""One error has another class and number with each driver, and the same is done about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import DatabaseError, DataError, OperationalError, ProgrammingError, connection

from pillarbox.delivery import database, prepared


class OfPsycopg3(Exception):
    """Its errors' name for a state."""

    def __init__(self, state: str) -> None:
        self.sqlstate = state


class OfPsycopg2(Exception):
    """Its errors' name for a state."""

    def __init__(self, state: str) -> None:
        self.pgcode = state


def failing(kind: type[DatabaseError], cause: Exception) -> Callable[..., Any]:
    """Return what fails as Django does: with an error of its own, for one of the driver's."""

    def fail(*_: Any) -> None:
        raise kind("failed") from cause

    return fail


def failing_once(kind: type[DatabaseError], cause: Exception) -> Callable[..., Any]:
    calls = iter([failing(kind, cause)])
    return lambda *_: next(calls, lambda: "done")()


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        (ProgrammingError, OfPsycopg3(prepared.MISSING)),
        (OperationalError, OfPsycopg2(prepared.MISSING)),
    ],
)
def test_a_statement_that_is_not_prepared_is_missing(
    kind: type[DatabaseError], cause: Exception
) -> None:
    fail = failing(kind, cause)
    assert not prepared.done_unless(prepared.MISSING, fail, "EXECUTE pillarbox_1")
    with pytest.raises(kind):
        prepared.done_unless(prepared.THERE, fail, "PREPARE pillarbox_1 AS SELECT 1")


@pytest.mark.parametrize("of_driver", [OfPsycopg3, OfPsycopg2])
def test_one_that_another_client_has_prepared_is_there(of_driver: type[Exception]) -> None:
    fail = failing(ProgrammingError, of_driver(prepared.THERE))
    assert not prepared.done_unless(prepared.THERE, fail, "PREPARE pillarbox_1 AS SELECT 1")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "cause",
    [*map(OfPsycopg3, ("40001", "40P01", "55P03")), *map(OfPsycopg2, ("40001", "40P01", "55P03"))],
    ids=repr,
)
def test_a_conflict_is_tried_again(cause: Exception) -> None:
    assert database.run("default", failing_once(OperationalError, cause)) == "done"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("number", [1366, 3988], ids=["MariaDB", "MySQL 8"])
def test_a_text_that_cannot_be_stored_is_no_lost_connection(number: int) -> None:
    cause = Exception(number, "Incorrect string value: '\\xF0\\x9F\\x92\\x8C'")
    connection.ensure_connection()
    driver = connection.connection
    with pytest.raises(DataError) as raised:
        database.run("default", failing(OperationalError, cause))
    assert raised.value.__cause__ is cause
    assert connection.connection is driver
