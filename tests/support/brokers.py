"""A Redis of a test's own, to flush, freeze and stop; and the engines that live on a broker."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import redis

from pillarbox.models import DatabaseNow, Drain
from tests import services
from tests.support.processes import Worker, running, wait_for, with_settings
from tests.support.wakes import closed_port


class Redis:
    """A ``redis-server`` that keeps nothing on disk, on a port that stays the same."""

    def __init__(self, directory: str) -> None:
        self.port = closed_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._directory = directory
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        assert services.REDIS_SERVER is not None
        places = ["--port", str(self.port), "--dir", self._directory]
        self._server = subprocess.Popen(
            [services.REDIS_SERVER, *places, "--bind", "127.0.0.1", "--save", ""],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        wait_for(self._answers)

    def _answers(self) -> bool:
        with redis.Redis.from_url(self.url) as client, suppress(redis.ConnectionError):
            return bool(client.ping())
        return False

    def flush(self) -> None:
        """Forget everything that waits: FLUSHALL."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def freeze(self) -> None:
        """Let it take connections and say nothing, until it is thawed."""
        assert self._server is not None
        self._server.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._server is not None
        self._server.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Kill it; what waited in it is gone. Nothing where it is stopped already."""
        if self._server is not None:
            self._server.kill()
            self._server.wait(10)
            self._server = None


@contextmanager
def own_redis() -> Iterator[Redis]:
    """Run one while the block lasts."""
    with tempfile.TemporaryDirectory() as directory:
        server = Redis(directory)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@dataclass(frozen=True)
class Engine:
    """An engine with a broker, and how to run its workers on a project's settings."""

    name: str
    settings: Mapping[str, Any]

    def project(self, host: str, port: int, **pillarbox: Any) -> dict[str, Any]:
        """Return the settings of a project that delivers by this engine to that SMTP server."""
        options = {"host": host, "port": port}
        mailer = {"BACKEND": "pillarbox.backends.smtp.EmailBackend", "OPTIONS": options}
        return {
            **self.settings,
            "REMOVE": ["MAILERS"],
            "PILLARBOX": {
                "ENGINE": self.name,
                "MAILERS": {"smtp": mailer},
                # What is in doubt stays so: a test sees it, and nothing is sent twice.
                "STREAMS": {"default": {"mailers": ["smtp"], "in_doubt": "hold"}},
                **pillarbox,
            },
        }

    def running(
        self, env: Mapping[str, str], project: Mapping[str, Any]
    ) -> AbstractContextManager[Worker]:
        """Run a worker, as a host of its own would."""
        env = with_settings(env, **project)
        if self.name == "celery":
            quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
            command = ["-m", "celery", "-A", "tests.support.celery_app", "worker", "-c", "1"]
            return running([*command, *quiet, "-l", "INFO"], env, ready=" ready.", timeout_s=60)
        if self.name == "django_q2":
            return running(["-m", "django", "qcluster"], env, ready=" running.", timeout_s=60)
        return running(["-m", "django", "pillarbox", "worker"], env, ready="a worker delivers on")


def own_worker() -> Engine:
    """Return the engine that needs no broker."""
    return Engine("worker", {})


def django_q2(**q_cluster: Any) -> Engine:
    """Return django-q2 with two workers: on the ORM, or on the ``redis`` given."""
    times = {"workers": 2, "timeout": 60, "retry": 120, "poll": 0.05}
    where = {} if "redis" in q_cluster else {"orm": "default"}
    return Engine("django_q2", {"Q_CLUSTER": {**times, **where, **q_cluster}})


def celery(url: str, **settings: Any) -> Engine:
    """Return Celery on a broker, with one child."""
    return Engine("celery", {"CELERY_BROKER_URL": url, **settings})


def sweep(env: Mapping[str, str], project: Mapping[str, Any]) -> None:
    """Run ``manage.py pillarbox sweep``, as cron would where no engine ticks."""
    command = ["-m", "django", "pillarbox", "sweep"]
    with running(command, with_settings(env, **project)) as process:
        process.ended()


def let_leases_run_out() -> None:
    """Spare a test the 15 s that a dead drain's lease has still to run; all drains must be dead."""
    Drain.objects.update(lease_until=DatabaseNow(timedelta(seconds=-1)))
