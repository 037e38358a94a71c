"""A `worker` is woken by the commit on PostgreSQL, and looks by itself on the other databases.

Here a worker that is told of commits looks by itself only every 8 seconds, so that what arrives
sooner has come by a notice.
"""

from __future__ import annotations

import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from pytest_django import Settings

from pillarbox.delivery import listening
from pillarbox.delivery.drain import TEND_EVERY_S, drain
from pillarbox.delivery.leases import LINGER_S
from pillarbox.engines import async_task, coalesce, notices
from pillarbox.engines.worker import Engine
from pillarbox.management.doctor import database as doctor
from pillarbox.models import Message, Pause, State
from pillarbox.outbox import verbs
from tests import services
from tests.settings import DATABASE
from tests.support import servers
from tests.support.mailers import delivering_to
from tests.support.processes import running, wait_for, with_settings
from tests.support.servers import Server
from tests.support.smtp_sink import Sink, smtp_sink
from tests.support.transactions import in_thread, rolled_back
from tests.support.wakes import answer_slowly, forget_wakes, queue, smtp_settings

pytestmark = pytest.mark.django_db(transaction=True)

LISTENS = DATABASE == "postgresql"
TOLD = "PostgreSQL tells this worker of commits"
NOT_TOLD = "PostgreSQL does not tell this worker of commits"
WORKER = ["-m", "django", "pillarbox", "worker"]
SELDOM_S = 8.0
SELDOM_BY_ITSELF_S = listening.LOOK_SELDOM_S
SOON_S = 3.0


@pytest.fixture
def sink(settings: Settings) -> Iterator[Sink]:
    settings.PILLARBOX = {"ENGINE": "worker", "CONNECTIONS": 4}
    with smtp_sink() as sink, delivering_to(sink):
        yield sink


@pytest.fixture
def at_work(
    sink: Sink, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], Worker]]:
    """Return a function that starts a worker, and end it with the test."""
    caplog.set_level("INFO", "pillarbox.delivery")
    monkeypatch.setattr(listening, "LOOK_SELDOM_S", SELDOM_S)
    forget_wakes(monkeypatch)
    with ExitStack() as stack:

        def start(until: str = TOLD) -> Worker:
            worker = stack.enter_context(_at_work())
            wait_for(lambda: not LISTENS or until in caplog.text)
            time.sleep(2 * LINGER_S)  # it has looked on after that
            return worker

        yield start


class Worker:
    """A worker in a thread, and how many queries it has made."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.queries = 0

    def run(self) -> None:
        def count(execute: Callable[..., Any], *arguments: Any) -> Any:
            self.queries += 1
            return execute(*arguments)

        with connection.execute_wrapper(count):
            drain(engine=Engine({}), stop=self.stop, forever=True)


@contextmanager
def _at_work() -> Iterator[Worker]:
    worker = Worker()
    thread = in_thread(worker.run)
    try:
        yield worker
    finally:
        worker.stop.set()
        thread.join(20)
        assert not thread.is_alive()
        assert "pillarbox-listener" not in {it.name for it in threading.enumerate()}


def test_a_commit_is_at_the_server_before_a_poll_would_have_found_it(
    at_work: Callable[[], Worker], sink: Sink
) -> None:
    at_work()
    took_s = []
    for number in range(1, 21):
        queue()
        started = time.monotonic()
        sink.wait_for(number, timeout_s=SOON_S)
        took_s.append(time.monotonic() - started)
        time.sleep(0.06)
    assert statistics.median(took_s) < (0.1 if LISTENS else 0.2)


def test_a_mail_does_not_wait_for_a_slow_conversation(
    at_work: Callable[[], Worker], sink: Sink
) -> None:
    answer_slowly(sink, 0.5)
    at_work()
    started = time.monotonic()
    for number in range(1, 4):
        queue()
        sink.wait_for(number, timeout_s=SOON_S)
        time.sleep(0.06)
    assert time.monotonic() - started < 1.2


def test_a_burst_of_coalesced_commits_leaves_no_straggler(
    at_work: Callable[[], Worker], sink: Sink
) -> None:
    at_work()

    def burst(count: int) -> None:
        for _ in range(count):
            queue()

    threads = [in_thread(lambda: burst(166)) for _ in range(3)]
    queue(), queue()
    for thread in threads:
        thread.join(60)
    sink.wait_for(500, timeout_s=SELDOM_S / 2)
    wait_for(lambda: Message.objects.filter(state=State.SENT).count() == 500)


def test_the_last_of_a_burst_is_seen_though_it_gave_no_notice(
    at_work: Callable[[], Worker], sink: Sink
) -> None:
    at_work()
    for number in range(1, 6):
        queue()
        time.sleep(0.04)  # by then the first is gone, and the window is open
        queue()
        sink.wait_for(2 * number, timeout_s=SOON_S)
        time.sleep(0.06)


def test_a_mail_for_later_goes_at_its_time(at_work: Callable[[], Worker], sink: Sink) -> None:
    at_work()
    due_at = datetime.now(UTC) + timedelta(seconds=1)
    queue(send_at=due_at)
    sink.wait_for(1, timeout_s=SOON_S)
    assert timedelta(0) <= datetime.now(UTC) - due_at < timedelta(seconds=0.5)


def test_a_released_message_goes_at_once(at_work: Callable[[], Worker], sink: Sink) -> None:
    message = verbs.hold(queue())
    at_work()
    verbs.release(message)
    sink.wait_for(1, timeout_s=SOON_S)


def test_a_resumed_stream_goes_at_once(at_work: Callable[[], Worker], sink: Sink) -> None:
    Pause.objects.create(stream="default")
    queue()
    at_work()
    assert not sink.received
    call_command("pillarbox", "resume", "default")
    sink.wait_for(1, timeout_s=SOON_S if LISTENS else TEND_EVERY_S + SOON_S)


def test_what_a_stopped_worker_gives_back_goes_to_the_others_at_once(
    at_work: Callable[[], Worker], sink: Sink, settings: Settings
) -> None:
    settings.PILLARBOX = {"ENGINE": "worker", "CONNECTIONS": 1}
    answer_slowly(sink, 1)
    first, _ = at_work(), [queue() for _ in range(3)]
    sink.wait_for(1)
    at_work()
    first.stop.set()  # it has one in conversation and one behind that
    started = time.monotonic()
    sink.wait_for(3, timeout_s=SELDOM_S / 2)
    assert time.monotonic() - started < SELDOM_S / 2


def test_an_idle_worker_makes_few_queries_where_it_is_told(
    at_work: Callable[[], Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "LOOK_SELDOM_S", SELDOM_BY_ITSELF_S)
    worker = at_work()
    before = worker.queries
    time.sleep(3)
    made = worker.queries - before
    assert 0 < made < 50 if LISTENS else made > 50


def test_a_worker_beside_another_engine_looks_by_itself(
    at_work: Callable[[str], Worker], sink: Sink, settings: Settings
) -> None:
    settings.PILLARBOX = {"ENGINE": "django_q2"}
    at_work("")
    queue()
    sink.wait_for(1, timeout_s=SOON_S)


def test_a_worker_that_hears_nothing_looks_by_itself(
    at_work: Callable[[str], Worker],
    sink: Sink,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(notices, "notify", lambda *_: None)  # as a pooler of transactions has it
    at_work(f"{NOT_TOLD} (Deaf)")
    queue()
    sink.wait_for(1, timeout_s=SOON_S)
    assert TOLD not in caplog.text


def test_a_listener_goes_on_when_its_connection_is_cut(
    at_work: Callable[[], Worker], sink: Sink, caplog: pytest.LogCaptureFixture
) -> None:
    at_work()
    if LISTENS:
        caplog.clear()
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND query LIKE 'LISTEN %'"
            )
            assert cursor.rowcount == 1
        wait_for(lambda: TOLD in caplog.text)
        assert caplog.text.count(NOT_TOLD) == 1
    queue()
    sink.wait_for(1, timeout_s=SOON_S)


def test_a_listening_worker_ends_at_once_when_told(process_env: dict[str, str], sink: Sink) -> None:
    pillarbox = {"ENGINE": "worker"}
    env = with_settings(process_env, PILLARBOX=pillarbox, **smtp_settings(sink))
    with running(WORKER, env, ready=TOLD if LISTENS else "a worker delivers on") as worker:
        time.sleep(0.3)
        started = time.monotonic()
        worker.popen.send_signal(signal.SIGTERM)
        assert worker.popen.wait(20) == 0
        assert time.monotonic() - started < 2


if LISTENS:

    def words(ear: notices.Ear) -> list[str]:
        time.sleep(0.2)
        return ear.words()

    def test_a_notice_leaves_with_the_commit_and_never_earlier(
        sink: Sink, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        forget_wakes(monkeypatch)
        with notices.Ear("default") as ear:
            with transaction.atomic():
                queue()
                assert words(ear) == []
            assert words(ear) == [""]

    def test_a_rolled_back_mail_notifies_nobody(
        sink: Sink, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        forget_wakes(monkeypatch)
        with notices.Ear("default") as ear:
            with rolled_back():
                queue()
            with transaction.atomic(), rolled_back():
                queue()
            assert words(ear) == []

    def test_commits_in_a_row_give_one_notice(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
        forget_wakes(monkeypatch)
        monkeypatch.setattr(coalesce, "WINDOW_S", 10)
        with notices.Ear("default") as ear:
            for _ in range(3):
                queue()
            assert words(ear) == [""]

    def test_the_doctor_says_whether_commits_wake_the_workers(
        sink: Sink, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        said = [finding.text for finding in doctor.examine()]
        assert "Commits wake the workers" in said
        monkeypatch.setattr(notices, "notify", lambda *_: None)
        (warned,) = (it for it in doctor.examine() if it.grade == "caution")
        assert "the workers look every 50 ms" in warned.text
        assert "past a pooler of transactions" in warned.remedy

    def test_other_jobs_wake_nobody(sink: Sink) -> None:
        with notices.Ear("default") as ear:
            async_task("pillarbox.jobs.prune")
            assert words(ear) == []

    def test_another_schema_is_another_channel(sink: Sink) -> None:
        with connection.cursor() as cursor:
            cursor.execute("CREATE SCHEMA elsewhere")
            cursor.execute("CREATE TABLE elsewhere.pillarbox_message ()")
        try:
            with notices.Ear("default") as ear, connection.cursor() as cursor:
                cursor.execute("SET search_path TO elsewhere, public")
                notices.notify("default", "of the other table")
                cursor.execute("SET search_path TO tenant, public")
                notices.notify("default", "of ours")
                assert words(ear) == ["of ours"]
        finally:
            with connection.cursor() as cursor:
                cursor.execute("RESET search_path")
                cursor.execute("DROP SCHEMA elsewhere CASCADE")


_ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(["src", os.environ.get("PYTHONPATH", "")])}


def env_of(server: Server, sink: Sink, **options: Any) -> dict[str, str]:
    """Return the environment of a worker on the server, and of who queues for it."""
    databases = {"default": server.settings(**options)}
    pillarbox = {"ENGINE": "worker"}
    return with_settings(_ENV, DATABASES=databases, PILLARBOX=pillarbox, **smtp_settings(sink))


def send(env: dict[str, str]) -> None:
    """Queue one mail in another process."""
    with running(["-m", "tests.support.stress", "queue", "1", "hold"], env) as process:
        process.ended()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A PostgreSQL of our own, with our tables."""
    services.require("postgres-server")
    with servers.postgresql() as server:
        env = with_settings(_ENV, DATABASES={"default": server.settings()})
        with running(["-m", "django", "migrate", "-v0"], env) as migration:
            migration.ended()
        yield server


def test_a_restarted_server_is_listened_to_again(server: Server, sink: Sink) -> None:
    env = env_of(server, sink)
    with running(WORKER, env, ready=TOLD) as worker:
        send(env)
        sink.wait_for(1)
        server.restart(server.fast)
        wait_for(lambda: worker.output().count(TOLD) == 2)
        send(env)
        sink.wait_for(2)
        assert worker.output().count(NOT_TOLD) == 1
        assert worker.stop() == 0


def test_a_pool_of_one_is_enough_for_a_worker_that_listens(server: Server, sink: Sink) -> None:
    services.require("psycopg-pool")
    env = env_of(server, sink, pool={"min_size": 1, "max_size": 1, "timeout": 3})
    with running(WORKER, env, ready=TOLD) as worker:
        send(env_of(server, sink))
        sink.wait_for(1)
        assert worker.stop() == 0
