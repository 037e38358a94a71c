"""A broker that is flushed, frozen, stopped and started again costs no mail and little time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pillarbox.engines.base import BROKER_TIMEOUT_S
from pillarbox.models import Message, State
from tests.support import brokers
from tests.support.brokers import Engine, Redis, let_leases_run_out, own_redis, sweep
from tests.support.pace import Pace, arrived
from tests.support.processes import wait_for
from tests.support.smtp_sink import Sink, smtp_sink
from tests.support.writer import Report, report, writing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.service("redis-server")]

IS_LONG = os.environ.get("PILLARBOX_TORTURE") == "1"
ROUNDS = 16 if IS_LONG else 1
KILLS = 5 if IS_LONG else 2
MAILS = 300 * ROUNDS
PAUSE_S = 0.02
TROUBLE_S = 1.2
"""How long the broker is frozen, and then stopped: longer than a caller waits for it."""
TRIES = {"django_q2": 1, "celery": 2}
"""Celery tries again at once, for a connection that the broker has dropped."""
SLACK_S = 1.0
"""What a loaded machine takes."""


@pytest.fixture
def sink() -> Iterator[Sink]:
    with smtp_sink() as sink:
        yield sink


@pytest.fixture
def redis() -> Iterator[Redis]:
    with own_redis() as redis:
        yield redis


def _django_q2(redis: Redis) -> Engine:
    return brokers.django_q2(redis=redis.url)


def _celery(redis: Redis) -> Engine:
    return brokers.celery(redis.url)


each_engine = pytest.mark.parametrize("on", [_django_q2, _celery], ids=["django_q2", "celery"])


@each_engine
def test_mail_flows_on_while_the_broker_is_flushed_frozen_stopped_and_started_again(
    process_env: dict[str, str], sink: Sink, redis: Redis, on: Callable[[Redis], Engine]
) -> None:
    alarm = on(redis)
    Pace(0.01).give_to(sink)
    project = alarm.project(sink.host, sink.port, CONNECTIONS=2, MAX_DRAINS=2)
    with alarm.running(process_env, project):
        with writing(process_env, project, MAILS, pause_s=PAUSE_S) as writer:
            sink.wait_for(5)
            for _ in range(ROUNDS):
                _trouble(redis)
            written = report(writer, timeout_s=120 + 30 * ROUNDS)
        sweep(process_env, project)
        _wait_until_all_is_settled()
    _assert_that_nobody_noticed(written, sink, TRIES[alarm.name] * BROKER_TIMEOUT_S + SLACK_S)


def _trouble(redis: Redis) -> None:
    for _ in range(5):
        redis.flush()
        time.sleep(0.1)
    redis.freeze()
    time.sleep(TROUBLE_S)
    redis.thaw()
    time.sleep(0.5)
    redis.stop()
    time.sleep(TROUBLE_S)
    redis.start()
    time.sleep(0.5)
    redis.flush()


def _assert_that_nobody_noticed(written: Report, sink: Sink, bound_s: float) -> None:
    print(f"slowest wake {written.slowest_wake_s:.2f} s, call {written.slowest_call_s:.2f} s")
    assert written.failed == []
    assert written.slowest_wake_s < bound_s
    assert written.slowest_call_s < bound_s + SLACK_S, "the database's share included"
    assert len(written.message_ids) == MAILS
    assert arrived(sink) == dict.fromkeys(written.message_ids, 1)


def _wait_until_all_is_settled(timeout_s: float = 60) -> None:
    open_ones = Message.objects.filter(state__in=[State.QUEUED, State.SENDING])
    wait_for(lambda: not open_ones.exists(), timeout_s=timeout_s)


@each_engine
def test_an_engine_wakes_again_once_its_broker_is_back(
    process_env: dict[str, str], sink: Sink, redis: Redis, on: Callable[[Redis], Engine]
) -> None:
    alarm = on(redis)
    project = alarm.project(sink.host, sink.port)
    with alarm.running(process_env, project):
        redis.stop()
        time.sleep(TROUBLE_S)
        redis.start()
        # django-q2 rests for 10 s after an error. A wake that comes meanwhile waits in Redis.
        with writing(process_env, project, 1, pause_s=0) as writer:
            assert report(writer).failed == []
        sink.wait_for(1, timeout_s=25)


@pytest.mark.parametrize(
    "on", [_django_q2, lambda _: brokers.django_q2()], ids=["on Redis", "on the ORM"]
)
def test_a_cluster_killed_as_a_whole_and_started_again_loses_nothing(
    process_env: dict[str, str], sink: Sink, redis: Redis, on: Callable[[Redis], Engine]
) -> None:
    alarm = on(redis)
    Pace(0.05).give_to(sink)
    project = alarm.project(sink.host, sink.port, CONNECTIONS=2, MAX_DRAINS=2)
    with writing(process_env, project, MAILS, pause_s=PAUSE_S) as writer:
        for _ in range(KILLS):
            came = len(sink.received)
            with alarm.running(process_env, project) as cluster:
                sink.wait_for(min(came + 20, MAILS), timeout_s=60)
                os.killpg(cluster.popen.pid, signal.SIGKILL)
            if not IS_LONG:
                let_leases_run_out()
        with alarm.running(process_env, project):
            written = report(writer, timeout_s=120 + 30 * ROUNDS)
            _sweep_until_all_is_settled(process_env, project)
    came_each = arrived(sink)
    doubts = Message.objects.filter(state=State.IN_DOUBT).values_list("message_id", flat=True)
    assert written.failed == []
    assert set(came_each.values()) == {1}
    assert set(came_each) | set(doubts) == set(written.message_ids)
    # Two drains of two connections each.
    assert len(doubts) <= KILLS * 4


def _sweep_until_all_is_settled(env: dict[str, str], project: dict[str, Any]) -> None:
    """Sweep as cron does, but more often: the dead are found once their leases have run out."""

    def swept() -> bool:
        sweep(env, project)
        return not Message.objects.filter(state__in=[State.QUEUED, State.SENDING]).exists()

    wait_for(swept, timeout_s=40 + 10 * ROUNDS)
