"""A deploy loses nothing: workers are told to stop, cut off and replaced while mail flows."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest
from pytest_django import Settings

from pillarbox import send_email
from pillarbox.engines.base import DRAIN_S
from pillarbox.models import Drain, Message, State
from tests.support import brokers
from tests.support.brokers import Engine, let_leases_run_out, own_redis, sweep
from tests.support.pace import Pace, arrived
from tests.support.processes import Worker, wait_for
from tests.support.scripted_smtp import Entry, Hang, ScriptedServer, Step
from tests.support.smtp_sink import Sink, smtp_sink
from tests.support.wakes import silent_port, wait_for_state
from tests.support.writer import report, writing

pytestmark = pytest.mark.slow

WORKER = brokers.own_worker()
LEASE_S = 15
SLACK_S = 6
"""What a loaded machine takes to start and end processes."""


@pytest.fixture
def sink() -> Iterator[Sink]:
    with smtp_sink() as sink:
        yield sink


@pytest.fixture
def _unheard(settings: Settings) -> None:
    """Let this process wake nobody: its mail waits for the workers of the test."""
    settings.PILLARBOX = {"ENGINE": "worker"}


def queue(count: int, to: str = "ada@example.org") -> list[Message]:
    """Queue and commit mails, the first of them due first."""
    return [send_email(f"Hello {n}", "It gets there.", [to]) for n in range(count)]


def states(messages: list[Message]) -> list[str]:
    """Return the states that the rows have now."""
    now = dict(Message.objects.values_list("pk", "state"))
    return [now[message.pk] for message in messages]


def in_conversation() -> int:
    """Return how many messages are begun and not settled."""
    return Message.objects.filter(state=State.SENDING, begun_at__isnull=False).count()


def told_to_stop(worker: Worker, number: int = signal.SIGTERM, *, timeout_s: float) -> float:
    """Send the signal, see the worker end well, and return how many seconds that took."""
    started = time.monotonic()
    os.kill(worker.popen.pid, number)
    code = worker.popen.wait(timeout_s)
    assert code == 0, f"It ended with {code}:\n{worker.output()}"
    return time.monotonic() - started


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.usefixtures("_unheard")
def test_a_worker_told_to_stop_ends_its_conversations_and_hands_the_rest_to_another_at_once(
    process_env: dict[str, str], sink: Sink, number: signal.Signals
) -> None:
    pace = Pace(6).give_to(sink)
    project = WORKER.project(sink.host, sink.port, CONNECTIONS=2)
    messages = queue(10)
    with WORKER.running(process_env, project) as old:
        wait_for(lambda: in_conversation() == 2)
        sink.wait_for(2)
        pace.seconds = 0
        os.kill(old.popen.pid, number)
        asked = time.monotonic()
        wait_for(lambda: states(messages).count(State.QUEUED) == 8, timeout_s=4)
        with WORKER.running(process_env, project):
            wait_for(lambda: states(messages).count(State.SENT) >= 8, timeout_s=10)
            handed_over_s = time.monotonic() - asked
        assert old.popen.wait(10) == 0
    assert handed_over_s < LEASE_S, "no lease had to run out"
    assert states(messages) == [State.SENT] * 10
    assert set(arrived(sink).values()) == {1}
    assert not Drain.objects.exists()


@pytest.mark.usefixtures("_unheard")
def test_a_second_signal_stops_at_once_and_what_was_begun_is_in_doubt(
    process_env: dict[str, str], sink: Sink
) -> None:
    pace = Pace(60).give_to(sink)
    project = WORKER.project(sink.host, sink.port, CONNECTIONS=1)
    messages = queue(3)
    with WORKER.running(process_env, project) as worker:
        sink.wait_for(1)
        worker.popen.send_signal(signal.SIGTERM)
        worker.wait_until_said("A second signal")
        wait_for(lambda: states(messages)[1:] == [State.QUEUED] * 2)
        worker.popen.send_signal(signal.SIGTERM)
        assert worker.popen.wait(3) == -signal.SIGTERM
    pace.seconds = 0
    let_leases_run_out()
    sweep(process_env, project)
    assert states(messages) == [State.IN_DOUBT, State.SENT, State.SENT]
    assert set(arrived(sink).values()) == {1}


@contextmanager
def deaf_port() -> Iterator[int]:
    """Give a port whose queue of connections is full: a connect waits for its time-out."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, ExitStack() as stack:
        for _ in range(3):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield server.getsockname()[1]


@pytest.mark.parametrize("port", [silent_port, deaf_port], ids=["no banner", "no connection"])
@pytest.mark.usefixtures("_unheard")
def test_a_worker_that_is_connecting_to_a_silent_server_stops_at_once(
    process_env: dict[str, str], port: Callable[[], AbstractContextManager[int]]
) -> None:
    messages = queue(3)
    with port() as number:
        project = WORKER.project("127.0.0.1", number, CONNECTIONS=2)
        with WORKER.running(process_env, project) as worker:
            wait_for(lambda: states(messages).count(State.SENDING) == 3)
            time.sleep(0.5)
            told_to_stop(worker, timeout_s=SLACK_S)
    assert states(messages) == [State.QUEUED] * 3
    assert set(Message.objects.values_list("drain", "begun_at", "attempts")) == {(None, None, 0)}


def test_rolling_restarts_lose_and_double_nothing_while_mail_flows(
    process_env: dict[str, str], sink: Sink
) -> None:
    Pace(0.02).give_to(sink)
    project = WORKER.project(sink.host, sink.port, CONNECTIONS=4)
    with ExitStack() as stack:
        writer = stack.enter_context(writing(process_env, project, 600, pause_s=0.01))
        old = stack.enter_context(WORKER.running(process_env, project))
        restarts = 0
        while restarts < 3 or writer.popen.poll() is None:
            came = len(sink.received)
            new = stack.enter_context(WORKER.running(process_env, project))
            sink.wait_for(min(came + 50, 600))
            told_to_stop(old, timeout_s=SLACK_S)
            old, restarts = new, restarts + 1
        written = report(writer)
        _wait_until_all_is_sent()
    assert written.failed == []
    assert arrived(sink) == dict.fromkeys(written.message_ids, 1)
    assert Message.objects.filter(state=State.SENT, attempts=1).count() == 600


def _wait_until_all_is_sent(timeout_s: float = 30) -> None:
    unsent = Message.objects.exclude(state=State.SENT)
    wait_for(lambda: not unsent.exists(), timeout_s=timeout_s)


@contextmanager
def engine(name: str, limit_s: int = 60) -> Iterator[Engine]:
    """Give an engine whose time limit is so many seconds, with a broker of its own."""
    if name == "django_q2":
        yield brokers.django_q2(timeout=limit_s, retry=2 * limit_s + 60)
        return
    with own_redis() as redis:
        yield brokers.celery(redis.url, CELERY_TASK_TIME_LIMIT=limit_s)


each_engine = pytest.mark.parametrize(
    "name", ["django_q2", pytest.param("celery", marks=pytest.mark.service("redis-server"))]
)


DRAINS = {"django_q2": 2, "celery": 1}
"""How many an engine still runs once told to stop: django-q2 may have one more in its queue."""


@each_engine
def test_an_engine_told_to_stop_under_load_leaves_the_rest_to_its_successor(
    process_env: dict[str, str], sink: Sink, name: str
) -> None:
    pace = Pace(0.3).give_to(sink)
    with engine(name) as alarm:
        project = alarm.project(sink.host, sink.port, CONNECTIONS=2, MAX_DRAINS=1)
        # 7 mails/s: more than two drains of 8 s can send.
        with writing(process_env, project, 300, pause_s=0) as writer:
            with alarm.running(process_env, project) as old:
                sink.wait_for(10)
                told_to_stop(old, timeout_s=DRAINS[name] * DRAIN_S + SLACK_S)
            written = report(writer)
            assert {State.SENT, State.QUEUED} == set(
                Message.objects.values_list("state", flat=True)
            )
            assert not Drain.objects.exists()
        pace.seconds = 0
        with alarm.running(process_env, project):
            _wait_until_all_is_sent()
    assert arrived(sink) == dict.fromkeys(written.message_ids, 1)


@each_engine
def test_a_drain_breaks_off_before_its_engine_kills_it_and_knows_what_is_in_doubt(
    process_env: dict[str, str], settings: Settings, name: str
) -> None:
    script: Mapping[Step, Entry] = {Step.RCPT: {"before@example.org": Hang()}, Step.DOT: Hang()}
    with ScriptedServer(script) as server, engine(name, limit_s=14) as alarm:
        project = alarm.project(server.host, server.port, CONNECTIONS=2)
        settings.PILLARBOX = {"ENGINE": "worker"}
        (before,) = queue(1, "before@example.org")
        (after,) = queue(1, "after@example.org")
        with alarm.running(process_env, project), writing(process_env, project, 1, pause_s=0):
            wait_for(lambda: any("before@" in command for command in server.commands))
            wait_for_state(after, State.IN_DOUBT, timeout_s=14)
            wait_for(lambda: states([before]) == [State.QUEUED], timeout_s=2)
    (row,) = Message.objects.filter(pk=before.pk)
    assert (row.drain, row.begun_at) == (None, None)


@each_engine
def test_what_an_engine_kills_all_the_same_is_in_doubt_or_queued_and_never_lost(
    process_env: dict[str, str], sink: Sink, name: str
) -> None:
    pace = Pace(30).give_to(sink)
    with engine(name, limit_s=2) as alarm:
        project = alarm.project(sink.host, sink.port, CONNECTIONS=2)
        # A limit so short is an error for the checks.
        project["SILENCED_SYSTEM_CHECKS"] = ["pillarbox.E021"]
        with alarm.running(process_env, project) as worker:
            with writing(process_env, project, 20, pause_s=0) as writer:
                written = report(writer)
            sink.wait_for(2)
            wait_for(lambda: "imeout" in worker.output() or "time limit" in worker.output())
            os.killpg(worker.popen.pid, signal.SIGKILL)
        pace.seconds = 0
        let_leases_run_out()
        sweep(process_env, project)
    came = arrived(sink)
    ids = {
        state: set(Message.objects.filter(state=state).values_list("message_id", flat=True))
        for state in (State.SENT, State.IN_DOUBT)
    }
    assert ids[State.SENT] | ids[State.IN_DOUBT] == set(written.message_ids)
    assert ids[State.SENT] <= set(came), "what is sent has come"
    assert set(came.values()) == {1}
    # Two connections of each drain that was killed.
    assert 2 <= len(ids[State.IN_DOUBT]) <= 8
