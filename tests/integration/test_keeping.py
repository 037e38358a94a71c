"""The connection to the database that a process keeps between its drains."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from django.core import mail
from django.db import connection, connections
from django.db.backends.signals import connection_created
from django.db.transaction import TransactionManagementError

from pillarbox import jobs, send_email
from pillarbox.delivery import keeping
from pillarbox.models import Drain, Message
from tests.support.mailers import delivering_to
from tests.support.scripted_smtp import ScriptedServer
from tests.support.transactions import in_thread

pytestmark = pytest.mark.django_db(transaction=True)

is_kept = pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite's are not kept")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Collect the connections that are opened, as without a test runner; in the end none is."""
    monkeypatch.setattr(keeping, "mail", SimpleNamespace())
    opened: list[Any] = []

    def note(*, connection: Any, **_: Any) -> None:
        opened.append(connection)

    connection_created.connect(note)
    yield opened
    connection_created.disconnect(note)
    keeping.close_idle()


def as_a_task() -> None:
    """Run a drain as a task queue does: without a connection before, and with none after."""
    connection.close()
    jobs.deliver_due()
    connection.close_if_unusable_or_obsolete()


def session() -> int:
    """Return the server's number of this thread's session."""
    sql = {"postgresql": "pg_backend_pid()", "mysql": "CONNECTION_ID()"}[connection.vendor]
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {sql}")
        return int(cursor.fetchone()[0])


def end_session(number: int) -> None:
    """Have the server end a session."""
    sql = {"postgresql": "SELECT pg_terminate_backend(%s)", "mysql": "KILL %s"}
    with connection.cursor() as cursor:
        cursor.execute(sql[connection.vendor], [number])


@is_kept
def test_a_drain_has_the_connection_of_the_one_before(opened: list[Any]) -> None:
    own = connections["default"]
    as_a_task()
    assert connections["default"] is own, "the task's own is back in its place"
    assert own.connection is None
    as_a_task()
    assert len(opened) == 1
    assert opened[0] is not own


def test_on_sqlite_and_where_django_keeps_connections_nothing_is_kept(
    opened: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if connection.vendor != "sqlite":
        monkeypatch.setitem(connection.settings_dict, "CONN_MAX_AGE", 60)
    for _ in range(2):
        as_a_task()
    assert {id(one) for one in opened} == {id(connections["default"])}
    assert not keeping._idle


@pytest.mark.usefixtures("opened")
def test_under_the_test_runner_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "mail", mail)
    as_a_task()
    assert not keeping._idle


@is_kept
def test_a_pool_is_left_to_the_pool(opened: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    connection.close()
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", {"pool": {"max_size": 2}})
    with keeping.kept_connection("default"):
        assert connections["default"].settings_dict["OPTIONS"]
    assert not keeping._idle


@is_kept
def test_the_connection_of_a_transaction_is_used(opened: list[Any]) -> None:
    send_email("n", "", ["ada@example.org"])
    before = session()
    with keeping.kept_connection("default"):
        assert session() == before
    assert not keeping._idle


@is_kept
def test_what_has_rested_for_long_is_opened_anew(
    opened: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_a_task()
    monkeypatch.setattr(keeping, "IDLE_S", -1.0)
    as_a_task()
    assert len(opened) == 2


@is_kept
def test_what_is_old_is_opened_anew(opened: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "AGE_S", 0)
    as_a_task()
    as_a_task()
    assert len(opened) == 2


@is_kept
def test_a_kept_connection_that_the_server_ended_costs_no_wake(opened: list[Any]) -> None:
    as_a_task()
    connection.close()
    with keeping.kept_connection("default"):
        number = session()
    send_email("n", "", ["ada@example.org"])
    end_session(number)
    with ScriptedServer() as server, delivering_to(server):
        as_a_task()
    assert Message.objects.get().state == "sent"
    assert not Drain.objects.exists()


@is_kept
def test_drains_at_the_same_time_have_each_their_own(opened: list[Any]) -> None:
    inside, leave = threading.Event(), threading.Event()
    numbers: list[int] = []

    def first() -> None:
        with keeping.kept_connection("default"):
            numbers.append(session())
            inside.set()
            leave.wait(10)

    thread = in_thread(first)
    assert inside.wait(10)
    connection.close()
    with keeping.kept_connection("default"):
        numbers.append(session())
    leave.set()
    thread.join()
    assert len(set(numbers)) == 2
    with keeping.kept_connection("default"):
        assert session() == numbers[1], "the first to end is kept, in whichever thread"
    assert sum(one.connection is not None for one in opened) == 1


@is_kept
def test_a_forked_process_leaves_alone_what_it_inherits(
    opened: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_a_task()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        with keeping.kept_connection("default"):
            session()
        keeping.close_idle()
    assert len(opened) == 2
    assert opened[0].connection is not None
    as_a_task()
    assert len(opened) == 2


@is_kept
def test_a_drain_that_fails_gives_the_threads_own_back(opened: list[Any]) -> None:
    connection.close()
    own = connections["default"]
    with pytest.raises(TransactionManagementError), keeping.kept_connection("default"):
        raise TransactionManagementError
    assert connections["default"] is own
