"""Starts, kills and restarts the worker processes of each engine, and looks into their logs."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.processes import wait_for

CONNECTIONS = 4
PROCESSES = 2
"""That drain at once, in a pool of the engine's or as workers of their own."""
LEASE_S, TEND_S = 15, 5


@dataclass(frozen=True)
class Engine:
    """How an engine's workers are run, and within how many seconds it promises mail to go again.

    ``leaders`` is how many of its processes are started; the others are their children.
    """

    pillarbox: str
    arguments: tuple[str, ...]
    leaders: int
    patience_s: float
    settings: Mapping[str, Any] = field(default_factory=dict)
    needs_redis: bool = False

    @property
    def is_runnable(self) -> bool:
        """Whether the programs that it takes are here."""
        return not self.needs_redis or shutil.which("redis-server") is not None


def _q_cluster(**broker: str) -> dict[str, Any]:
    times = {"workers": PROCESSES, "timeout": 60, "retry": 120, "poll": 0.05}
    return {"Q_CLUSTER": {**times, **broker}}


# Where a pool's processes may all be dead with their wakes, the sweep comes: after a minute with
# django-q2, which looks for what is due every 30 s, and after 30 s with Celery.
_Q_ARGUMENTS = ("-m", "django", "qcluster")
_Q_PATIENCE_S = LEASE_S + 60 + 30 + 5
ENGINES: dict[str, Engine] = {
    "worker": Engine("worker", ("-m", "django", "pillarbox", "worker"), PROCESSES, 30),
    "django_q2": Engine(
        "django_q2",
        _Q_ARGUMENTS,
        1,
        _Q_PATIENCE_S,
        _q_cluster(orm="default"),
    ),
    "django_q2-redis": Engine(
        "django_q2",
        _Q_ARGUMENTS,
        1,
        _Q_PATIENCE_S,
        _q_cluster(redis="{redis}"),
        needs_redis=True,
    ),
    "celery": Engine(
        "celery",
        (
            *("-m", "celery", "-A", "tests.support.celery_app", "worker", "--beat"),
            *("-s", "{folder}/beat", "-c", str(PROCESSES), "-l", "WARNING"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        ),
        1,
        LEASE_S + 30 + 15,
        {"CELERY_BROKER_URL": "{redis}"},
        needs_redis=True,
    ),
}


class Crew:
    """The processes of one engine: each leader in a session of its own, with its children."""

    def __init__(self, engine: Engine, env: Mapping[str, str], folder: Path) -> None:
        self._arguments = [text.format(folder=folder) for text in engine.arguments]
        self._env = {**env, "PYTHONUNBUFFERED": "1"}
        self._log = folder / "workers.log"
        self._leaders: list[subprocess.Popen[bytes]] = []
        self._wanted = engine.leaders
        self._dead: set[int] = set()
        self._stopped: set[int] = set()

    def mend(self) -> None:
        """Start what is missing; what a dead leader has left running is killed first."""
        for leader in list(self._leaders):
            if leader.poll() is not None:
                _kill_session(leader)
                self._leaders.remove(leader)
        while len(self._leaders) < self._wanted:
            self._leaders.append(self._start())

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *self._arguments],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def at_work(self) -> list[int]:
        """Return the processes of ours that have a drain's row, less the stopped and the dead."""
        from pillarbox.models import Drain

        pids = set(Drain.objects.filter(closing=False).values_list("pid", flat=True))
        return sorted(pid for pid in pids - self._dead - self._stopped if self._is_ours(pid))

    def _is_ours(self, pid: int) -> bool:
        try:
            return os.getsid(pid) in {leader.pid for leader in self._leaders}
        except ProcessLookupError:
            return False

    def drains_of(self, pid: int) -> list[str]:
        """Return the ids of the drains of a process."""
        from pillarbox.models import Drain

        return [str(pk) for pk in Drain.objects.filter(pid=pid).values_list("pk", flat=True)]

    def is_dead(self, pid: int) -> bool:
        """Whether it was killed, or has gone with its leader."""
        return pid in self._dead or not self._is_ours(pid)

    def kill(self, pid: int) -> None:
        """Kill one process. Raise ProcessLookupError if it is gone already."""
        self._dead.add(pid)
        os.kill(pid, signal.SIGKILL)

    def kill_with_its_kin(self, pid: int) -> None:
        """Kill a process together with its leader and all its siblings."""
        session = os.getsid(pid)
        for leader in self._leaders:
            if leader.pid == session:
                self._dead.add(pid)
                _kill_session(leader)

    def buried(self, pid: int) -> None:
        """Note that a process has killed itself."""
        self._dead.add(pid)

    def stop(self, pid: int) -> None:
        """Stop a process in its tracks."""
        self.stopped(pid)
        os.kill(pid, signal.SIGSTOP)

    def stopped(self, pid: int) -> None:
        """Note that a process is stopped."""
        self._stopped.add(pid)

    def go_on(self, pid: int) -> None:
        """Let a stopped process go on."""
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        self._stopped.discard(pid)

    @contextmanager
    def reinforced(self, by: int) -> Iterator[None]:
        """Have so many leaders more while the block lasts; those then stay until they die."""
        self._wanted += by
        try:
            yield
        finally:
            self._wanted -= by

    def log(self) -> str:
        """Return everything that the processes have said."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def close(self) -> None:
        """Leave nothing running."""
        for leader in self._leaders:
            _kill_session(leader)
        self._leaders.clear()


def _kill_session(leader: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGKILL)
    leader.wait(10)


@contextmanager
def crew(engine: Engine, env: Mapping[str, str], folder: Path) -> Iterator[Crew]:
    """Have the engine's processes while the block lasts."""
    workers = Crew(engine, env, folder)
    try:
        workers.mend()
        yield workers
    finally:
        workers.close()


@contextmanager
def own_redis(folder: Path) -> Iterator[str]:
    """Run a Redis that nobody else uses, on a free port, and give its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--save", "", "--dir", str(folder)]
    with (folder / "redis.log").open("ab") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        wait_for(lambda: _answers(port), timeout_s=10)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.kill()
        server.wait(10)


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
