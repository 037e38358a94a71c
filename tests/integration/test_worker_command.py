"""``manage.py pillarbox worker`` and ``deliver`` as processes, with a real SMTP server."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from pytest_django import Settings

from pillarbox import send_email
from pillarbox.models import Drain, Message, State
from tests.support.processes import Worker, running, wait_for, with_settings
from tests.support.smtp_sink import Sink, smtp_sink
from tests.support.wakes import answer_slowly, closed_port, smtp_settings, wait_for_state

WORKER = ["-m", "django", "pillarbox", "worker"]
READY = "a worker delivers on"


@pytest.fixture
def sink() -> Iterator[Sink]:
    with smtp_sink() as sink:
        yield sink


@pytest.fixture
def env(process_env: dict[str, str], sink: Sink, settings: Settings) -> dict[str, str]:
    """Return the environment of a worker of the engine `worker` that delivers to the sink."""
    settings.PILLARBOX = {"ENGINE": "worker"}
    pillarbox = {"ENGINE": "worker", "CONNECTIONS": 1}
    return with_settings(process_env, PILLARBOX=pillarbox, **smtp_settings(sink))


def queue() -> Message:
    """Queue and commit a mail."""
    return send_email("Hello", "It gets there.", ["ada@example.org"])


def begun(message: Message) -> bool:
    """Whether a worker is in conversation about it."""
    return Message.objects.filter(pk=message.pk, begun_at__isnull=False).exists()


def test_a_worker_delivers_what_comes_and_stops_when_told(env: dict[str, str], sink: Sink) -> None:
    early = queue()
    with running(WORKER, env, ready=READY) as worker:
        wait_for_state(early, State.SENT)
        late = queue()
        wait_for_state(late, State.SENT)
        assert Drain.objects.get().pid == worker.popen.pid
        assert worker.stop() == 0
        assert "The worker stops: 2 sent." in worker.output()
    assert len(sink.received) == 2
    assert not Drain.objects.exists()


def test_it_logs_every_attempt_and_no_address(env: dict[str, str]) -> None:
    message = queue()
    with running(WORKER, env, ready=READY) as worker:
        wait_for_state(message, State.SENT)
        worker.stop()
        assert f"INFO pillarbox.delivery: Message {message.pk}: sent" in worker.output()
        assert "ada@example.org" not in worker.output()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_mail_in_hand_is_finished_and_the_rest_given_back(
    env: dict[str, str], sink: Sink, number: signal.Signals
) -> None:
    answer_slowly(sink, 1.5)
    messages = [queue() for _ in range(3)]
    with running(WORKER, env, ready=READY) as worker:
        wait_for(lambda: begun(messages[0]))
        os.kill(worker.popen.pid, number)
        assert worker.popen.wait(20) == 0
        assert "the mail in hand is finished" in worker.output()
    assert len(sink.received) == 1
    states = [Message.objects.get(pk=message.pk).state for message in messages]
    assert states == [State.SENT, State.QUEUED, State.QUEUED]


def test_a_second_signal_stops_at_once(env: dict[str, str], sink: Sink) -> None:
    answer_slowly(sink, 30)
    message = queue()
    with running(WORKER, env, ready=READY) as worker:
        wait_for(lambda: begun(message))
        worker.popen.send_signal(signal.SIGTERM)
        worker.wait_until_said("A second signal")
        worker.popen.send_signal(signal.SIGTERM)
        assert worker.popen.wait(5) == -signal.SIGTERM
    row = Message.objects.get(pk=message.pk)
    assert row.state == State.SENDING, "its drain's lease is yet to run out"


def test_two_workers_share_the_queue(env: dict[str, str], sink: Sink) -> None:
    with (
        running(WORKER, env, ready=READY) as one,
        running(WORKER, env, ready=READY) as other,
    ):
        messages = [queue() for _ in range(40)]
        sink.wait_for(40)
        wait_for(lambda: Message.objects.filter(state=State.SENT).count() == 40)
        assert [one.stop(), other.stop()] == [0, 0]
    ids = {message.message_id for message in messages}
    assert len(sink.received) == len(ids) == 40


def test_a_worker_works_beside_another_engine(
    process_env: dict[str, str], sink: Sink, settings: Settings
) -> None:
    settings.PILLARBOX = {"ENGINE": "django_q2"}
    env = with_settings(process_env, **smtp_settings(sink))
    message = queue()
    with running(WORKER, env, ready=READY):
        wait_for_state(message, State.SENT)


def deliver(env: dict[str, str], *arguments: str) -> Iterator[Worker]:
    """Run ``pillarbox deliver`` to its end."""
    with running(["-m", "django", "pillarbox", "deliver", *arguments], env) as process:
        process.popen.wait(30)
        yield process


def test_deliver_sends_what_is_due_and_ends(env: dict[str, str], sink: Sink) -> None:
    for _ in range(3):
        queue()
    for process in deliver(env):
        assert process.popen.returncode == 0
        assert "Delivered: 3 sent." in process.output()
    assert len(sink.received) == 3


def test_deliver_fails_where_the_mailer_is_down(env: dict[str, str], sink: Sink) -> None:
    sink = Sink(sink.host, closed_port())
    message = queue()
    pillarbox = {"ENGINE": "worker"}
    for process in deliver(with_settings(env, PILLARBOX=pillarbox, **smtp_settings(sink))):
        assert process.popen.returncode == 1
        assert "1 mailer down" in process.output()
    assert Message.objects.get(pk=message.pk).state == State.QUEUED


def test_deliver_told_to_stop_gives_the_rest_back(env: dict[str, str], sink: Sink) -> None:
    answer_slowly(sink, 1.5)
    first, second = queue(), queue()
    with running(["-m", "django", "pillarbox", "deliver"], env) as process:
        wait_for(lambda: begun(first))
        assert process.stop() == 0
        assert "Delivered: 1 sent." in process.output()
    assert Message.objects.get(pk=second.pk).state == State.QUEUED
