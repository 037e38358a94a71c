"""Celery for real: a worker of its own, on Redis and on RabbitMQ, and beat."""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from celery._state import _set_current_app
from django.core import mail
from kombu import pools
from pytest_django import Settings

from pillarbox import jobs
from pillarbox.engines import celery as engine
from pillarbox.models import Drain, State
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

BROKERS = {"redis": services.REDIS_URL, "rabbitmq": services.RABBITMQ_URL}
both_brokers = pytest.mark.parametrize(
    "broker",
    [pytest.param(name, marks=pytest.mark.service(name)) for name in BROKERS],
    indirect=True,
)


@dataclass
class Broker:
    """A queue of one test's own, and the settings of a worker that serves it."""

    queue: str
    settings: dict[str, Any]

    def worker(self, env: dict[str, str], sink: Sink) -> AbstractContextManager[Worker]:
        """Run a Celery worker on the test's database, delivering into the sink."""
        arguments = ["worker", "-c", "1", "-Q", self.queue, "-n", f"{self.queue}@%h"]
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "INFO"]
        return self._run([*arguments, *quiet], env, ready=" ready.", **smtp_settings(sink))

    def beat(self, env: dict[str, str], schedule: Path) -> AbstractContextManager[Worker]:
        """Run Celery's beat, which knows the sweep by itself."""
        arguments = ["beat", "-s", str(schedule), "--pidfile", "", "-l", "INFO"]
        return self._run(arguments, env, ready="beat: Starting...")

    def _run(
        self, arguments: list[str], env: dict[str, str], *, ready: str, **settings: Any
    ) -> AbstractContextManager[Worker]:
        env = with_settings(env, **self.settings, **settings)
        command = ["-m", "celery", "-A", "tests.support.celery_app"]
        return running([*command, *arguments], env, ready=ready, timeout_s=60)


@pytest.fixture
def sink() -> Iterator[Sink]:
    with smtp_sink() as sink:
        yield sink


@pytest.fixture(autouse=True)
def _awake(monkeypatch: pytest.MonkeyPatch, transactional_db: None) -> None:
    forget_wakes(monkeypatch)


@pytest.fixture
def broker(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Broker]:
    """The queue, served from this process too; everything of it is deleted in the end."""
    name = f"pillarbox-{uuid.uuid4()}"
    url = BROKERS[request.param]
    options = {"global_keyprefix": f"{name}:"} if request.param == "redis" else {}
    settings.PILLARBOX = {"ENGINE": "celery", "ENGINE_OPTIONS": {"queue": name}}
    app = _use(url, options)
    yield Broker(
        name,
        {
            "PILLARBOX": settings.PILLARBOX,
            "CELERY_BROKER_URL": url,
            "CELERY_BROKER_TRANSPORT_OPTIONS": options,
        },
    )
    _forget(app)
    _clean_redis(url, name) if options else _clean_rabbitmq(url, name)


def _use(url: str, options: dict[str, Any]) -> Celery:
    app = Celery("shop", broker=url, fixups=[])
    app.conf.broker_transport_options = options
    return app


def _forget(app: Celery) -> None:
    app.close()
    _set_current_app(None)


def _clean_redis(url: str, queue: str) -> None:
    with redis.Redis.from_url(url) as client:
        for key in client.scan_iter(f"{queue}:*"):
            client.delete(key)


def _clean_rabbitmq(url: str, queue: str) -> None:
    app = Celery(broker=url, set_as_current=False, fixups=[])
    with app.connection_for_write() as connection:
        connection.default_channel.queue_delete(queue)
        connection.default_channel.exchange_delete(queue)
    app.close()


@both_brokers
def test_a_mail_goes_by_a_worker(broker: Broker, process_env: dict[str, str], sink: Sink) -> None:
    with broker.worker(process_env, sink) as worker:
        message = queue()
        (received,) = sink.wait_for(1)
        wait_for_state(message, State.SENT)
        worker.wait_until_said("Task pillarbox.jobs.deliver_due", timeout_s=5)
        wait_for(lambda: not Drain.objects.exists())
    assert received.rcpt_tos == ("ada@example.org",)
    assert message.message_id.encode() in received.data


@both_brokers
def test_a_mail_for_later_goes_by_a_delayed_wake(
    broker: Broker, process_env: dict[str, str], sink: Sink
) -> None:
    queue()
    later = queue(send_at=timedelta(seconds=3))
    with broker.worker(process_env, sink):
        sink.wait_for(2)
        wait_for_state(later, State.SENT)


@pytest.mark.slow
@pytest.mark.service("redis")
@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_a_mail_whose_wake_is_lost_goes_with_beats_sweep(
    broker: Broker,
    process_env: dict[str, str],
    sink: Sink,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    lose_wakes(monkeypatch)
    message = queue()
    beat = broker.beat(process_env, tmp_path / "schedule")
    with broker.worker(process_env, sink), beat as clock:
        clock.wait_until_said("Sending due task pillarbox.jobs.sweep", timeout_s=60)
        sink.wait_for(1)
        wait_for_state(message, State.SENT)


@pytest.mark.parametrize("trouble", ["closed", "silent"])
@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_broker_that_is_down_costs_the_caller_little_and_the_sweep_delivers(
    scheme: str, trouble: str, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.PILLARBOX = {"ENGINE": "celery"}
    with silent_port() as silent:
        port = silent if trouble == "silent" else closed_port()
        app = _use(f"{scheme}://127.0.0.1:{port}/", {})
        with caplog.at_level(logging.WARNING, "pillarbox"):
            started = time.monotonic()
            message = queue()
            took_s = time.monotonic() - started
    assert took_s < 1
    (record,) = [record for record in caplog.records if record.name == "pillarbox.engines"]
    assert record.levelno == logging.WARNING
    assert "sweep" in record.getMessage()

    jobs.sweep()
    _forget(app)
    assert [sent.to for sent in mail.outbox] == [["ada@example.org"]]
    wait_for_state(message, State.SENT)


@both_brokers
def test_a_connection_that_the_broker_has_dropped_is_made_anew(
    broker: Broker, process_env: dict[str, str], sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    with broker.worker(process_env, sink):
        queue()
        sink.wait_for(1)
        wait_for(lambda: not Drain.objects.exists())
        _drop_connections(broker)
        forget_wakes(monkeypatch)
        queue()
        sink.wait_for(2)


def _drop_connections(broker: Broker) -> None:
    with pools.producers[engine._kept_connection(engine._app(), os.getpid())].acquire() as producer:
        if broker.settings["CELERY_BROKER_URL"].startswith("redis"):
            (connection,) = producer.channel.pool._available_connections
            connection._sock.shutdown(socket.SHUT_RDWR)
        else:
            producer.connection.connection.transport.sock.shutdown(socket.SHUT_RDWR)
