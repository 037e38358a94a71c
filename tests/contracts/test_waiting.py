"""While PostgreSQL works on a statement its drain works, too."""

from __future__ import annotations

import time

import pytest
from django.db import DatabaseError, connection

from pillarbox import send_email
from pillarbox.delivery import database
from tests.contracts.test_ledger import Desk
from tests.support.vendors import only_on_postgresql

pytestmark = [
    pytest.mark.django_db(transaction=True),
    only_on_postgresql("other drivers have no such moment"),
]


def test_work_is_done_between_a_statement_and_its_answer() -> None:
    started, worked = time.monotonic(), []

    def work() -> None:
        time.sleep(0.2)
        worked.append(time.monotonic() - started)

    rows = database.execute("default", "SELECT pg_sleep(%s), 7", [0.2], meanwhile=work)
    took = time.monotonic() - started
    assert [number for _, number in rows] == [7]
    (at,) = worked
    assert 0.2 <= at <= took < 0.38  # side by side, and not one after the other


def test_it_is_done_once_and_never_for_a_later_statement() -> None:
    done: list[int] = []
    database.execute("default", "SELECT 1", [], meanwhile=lambda: done.append(1))
    database.execute("default", "SELECT 2", [])
    assert done == [1]


def test_a_statement_that_fails_fails_as_ever_and_leaves_the_connection_of_use() -> None:
    done: list[int] = []
    with pytest.raises(DatabaseError, match="division by zero"):
        database.execute("default", "SELECT 1 / %s", [0], meanwhile=lambda: done.append(1))
    assert done == [1]
    assert database.execute("default", "SELECT 7", []) == [(7,)]


def test_a_group_commit_calls_it() -> None:
    desk, done = Desk(), []
    send_email("s", "b", ["ada@example.org"])
    parcel = desk.claim()
    entry = desk.ledger.commit([parcel], [], meanwhile=lambda: done.append(connection.vendor))
    assert entry.begun == [parcel]
    assert done == ["postgresql"]
