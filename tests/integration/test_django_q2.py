"""django-q2 for real: a cluster of its own processes, with its ORM broker and with Redis."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from threading import Thread
from typing import Any

import pytest
import redis
from django.core import mail
from django.core.management import call_command
from django.db import connection, transaction
from django.db.models import Max, Min
from django_q.conf import Conf
from django_q.models import OrmQ, Schedule, Task
from pytest_django import Settings

from pillarbox import jobs
from pillarbox.engines import get_engine
from pillarbox.models import Drain, Message, State
from tests import services
from tests.support.processes import Worker, running, wait_for, with_settings
from tests.support.smtp_sink import Sink, smtp_sink
from tests.support.wakes import (
    closed_port,
    forget_wakes,
    lose_wakes,
    queue,
    silent_port,
    smtp_settings,
    wait_for_state,
)

TIMES = {"workers": 2, "timeout": 60, "retry": 120, "poll": 0.05}


@pytest.fixture
def sink() -> Iterator[Sink]:
    with smtp_sink() as sink:
        yield sink


@pytest.fixture(autouse=True)
def _awake(monkeypatch: pytest.MonkeyPatch, transactional_db: None) -> None:
    forget_wakes(monkeypatch)


@pytest.fixture
def redis_broker(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Iterator[dict[str, Any]]:
    """A queue of this test's own in Redis, which this process wakes through as well."""
    name = f"pillarbox-{uuid.uuid4()}"
    _use_redis(services.REDIS_URL, name, monkeypatch, settings)
    yield {**TIMES, "redis": services.REDIS_URL, "name": name}
    with redis.Redis.from_url(services.REDIS_URL) as client:
        for key in client.scan_iter(f"django_q:{name}:*"):
            client.delete(key)


def _use_redis(url: str, name: str, monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    # django-q2 reads its settings once, when it is imported.
    for key, value in {"ORM": None, "REDIS": url, "PREFIX": name, "CLUSTER_NAME": name}.items():
        monkeypatch.setattr(Conf, key, value)
    # Setting it, and setting it back after the test, makes a new engine with a new broker.
    settings.PILLARBOX = {}


def cluster(
    env: dict[str, str], sink: Sink, q_cluster: dict[str, Any]
) -> AbstractContextManager[Worker]:
    """Run ``manage.py qcluster`` on the test's database, delivering into the sink."""
    env = with_settings(env, Q_CLUSTER=q_cluster, **smtp_settings(sink))
    return running(["-m", "django", "qcluster"], env, ready=" running.")


def test_a_mail_goes_by_the_orm_broker(process_env: dict[str, str], sink: Sink) -> None:
    with cluster(process_env, sink, {**TIMES, "orm": "default"}):
        message = queue()
        (received,) = sink.wait_for(1)
        wait_for_state(message, State.SENT)
        wait_for(lambda: not OrmQ.objects.exists())
        wait_for(lambda: not Drain.objects.exists())
    assert received.rcpt_tos == ("ada@example.org",)
    assert message.message_id.encode() in received.data
    assert not Task.objects.exists(), "a wake must not fill django-q2's history"


@pytest.mark.service("redis")
def test_a_mail_goes_by_redis(
    process_env: dict[str, str], sink: Sink, redis_broker: dict[str, Any]
) -> None:
    with cluster(process_env, sink, redis_broker):
        message = queue()
        sink.wait_for(1)
        wait_for_state(message, State.SENT)
    assert not Task.objects.exists()


@pytest.mark.slow
def test_a_mail_whose_wake_is_lost_goes_with_the_sweep(
    process_env: dict[str, str], sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    get_engine().register_sweep("default")
    lose_wakes(monkeypatch)
    message = queue()
    with cluster(process_env, sink, {**TIMES, "orm": "default"}):
        sink.wait_for(1, timeout_s=60)
        wait_for_state(message, State.SENT)
        wait_for(lambda: not OrmQ.objects.exists())
    assert Schedule.objects.filter(name="pillarbox.sweep").count() == 1
    assert not Task.objects.filter(func="pillarbox.jobs.sweep").exists()


@pytest.mark.slow
def test_a_stream_flows_at_its_rate_from_one_drain_to_the_next(
    process_env: dict[str, str], sink: Sink
) -> None:
    count, per_s = 60, 5
    for _ in range(count):
        queue()
    env = with_settings(
        process_env,
        Q_CLUSTER={**TIMES, "orm": "default"},
        PILLARBOX={"STREAMS": {"default": {"rate": f"{per_s}/s"}}},
        **smtp_settings(sink),
    )
    with running(["-m", "django", "qcluster"], env, ready=" running."):
        sink.wait_for(count, timeout_s=60)
        wait_for(lambda: not Message.objects.exclude(state=State.SENT).exists())
    ended = Message.objects.aggregate(first=Min("finished_at"), last=Max("finished_at"))
    took_s = (ended["last"] - ended["first"]).total_seconds()
    at_best_s = (count - per_s) / per_s
    assert took_s > 8, "one drain of 8 s was enough"
    assert at_best_s - 0.5 < took_s < 1.4 * at_best_s


def test_migrate_creates_the_schedules_once() -> None:
    Schedule.objects.all().delete()
    call_command("migrate", verbosity=0)
    call_command("migrate", verbosity=0)
    names = Schedule.objects.order_by("name").values_list("name", flat=True)
    assert list(names) == ["pillarbox.prune", "pillarbox.sweep"]


def test_hosts_that_migrate_at_once_create_the_schedules_once() -> None:
    Schedule.objects.all().delete()

    def migrate() -> None:
        get_engine().register_sweep("default")
        connection.close()

    hosts = [Thread(target=migrate) for _ in range(8)]
    for host in hosts:
        host.start()
    for host in hosts:
        host.join()
    assert Schedule.objects.count() == 2


@pytest.mark.parametrize("broker", ["closed", "silent"])
def test_a_broker_that_is_down_costs_the_caller_little_and_the_sweep_delivers(
    broker: str,
    monkeypatch: pytest.MonkeyPatch,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with silent_port() as silent:
        port = silent if broker == "silent" else closed_port()
        _use_redis(f"redis://127.0.0.1:{port}/0", "down", monkeypatch, settings)
        with caplog.at_level(logging.WARNING, "pillarbox"):
            started = time.monotonic()
            with transaction.atomic():
                message = queue()
            took_s = time.monotonic() - started
    assert took_s < 1
    (record,) = [record for record in caplog.records if record.name == "pillarbox.engines"]
    assert record.levelno == logging.WARNING
    assert "sweep" in record.getMessage()

    jobs.sweep()
    assert [sent.to for sent in mail.outbox] == [["ada@example.org"]]
    wait_for_state(message, State.SENT)
