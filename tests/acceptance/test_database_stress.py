"""The database under stress: what a worker knows survives it, and nothing is sent twice.

On a server of the test's own: MariaDB in the run on MariaDB, else PostgreSQL. Everything is queued
with `hold`, so that a message is sent again only where that is known to be right.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from functools import partial
from typing import Any

import pytest

from tests import services
from tests.settings import DATABASE
from tests.support import servers
from tests.support.forgetful_proxy import ForgetfulProxy
from tests.support.processes import Worker, running, wait_for, with_settings
from tests.support.servers import Server
from tests.support.smtp_sink import Sink, smtp_sink
from tests.support.wakes import answer_slowly, smtp_settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

WORKER = ["-m", "django", "pillarbox", "worker"]
HASTY = ["-m", "tests.support.stress", "hasty"]
CROWDED = ["-m", "tests.support.stress", "crowded"]
READY = "a worker delivers on"
# `PILLARBOX_TORTURE=1` makes it long.
STRESS_S = 60 if os.environ.get("PILLARBOX_TORTURE") == "1" else 6
KIND = "mariadb" if DATABASE == "mariadb" else "postgresql"
STILL_QUEUED = "SELECT COUNT(*) FROM pillarbox_message WHERE state = 'queued'"
SNAPSHOT = {"mariadb": "BEGIN", "postgresql": "BEGIN ISOLATION LEVEL REPEATABLE READ"}
PROGRAMS = {"mariadb": "mariadbd", "postgresql": "postgres-server"}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server with our tables."""
    services.require(PROGRAMS[KIND])
    with getattr(servers, KIND)() as server:
        with running(["-m", "django", "migrate", "-v0"], env_of(server.settings())) as migration:
            migration.ended()
        yield server


def env_of(database: dict[str, Any], **settings: Any) -> dict[str, str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(["src", os.environ.get("PYTHONPATH", "")])}
    return with_settings(env, DATABASES={"default": database}, **settings)


class Stress:
    """Mail queued in a database, the sink that it is for, and what became of it."""

    def __init__(self, server: Server, sink: Sink) -> None:
        self.server = server
        self.sink = sink
        self.queued: set[str] = set()

    def queue(self, count: int) -> None:
        """Queue mail, to be held where it is in doubt."""
        env = env_of(self.server.settings())
        command = ["-m", "tests.support.stress", "queue", str(count), "hold"]
        with running(command, env) as process:
            process.ended()
        self.queued |= {row[0] for row in self._rows("message_id")}

    @contextmanager
    def worker(
        self, command: list[str] = WORKER, *, database: dict[str, Any] | None = None, **more: Any
    ) -> Iterator[Worker]:
        """Run a worker on the database while the block lasts."""
        pillarbox = {"ENGINE": "worker", "CONNECTIONS": 4, **more}
        env = env_of(
            database or self.server.settings(), PILLARBOX=pillarbox, **smtp_settings(self.sink)
        )
        with running(command, env, ready=READY) as worker:
            yield worker

    def wait_until_under_way(self, count: int = 5) -> None:
        """Wait until that many more have arrived."""
        wanted = len(self.sink.received) + count
        wait_for(lambda: len(self.sink.received) >= wanted)

    def wait_until_done(self, *, timeout_s: float = 60) -> None:
        """Wait until nothing is queued or being sent."""
        wait_for(lambda: not self.states() & Counter(queued=1, sending=1), timeout_s=timeout_s)

    def states(self) -> Counter[str]:
        """Return how many messages are in which state."""
        return Counter(state for _, state in self._rows("message_id, state"))

    def _rows(self, columns: str) -> list[tuple[Any, ...]]:
        return self.server.query(f"SELECT {columns} FROM pillarbox_message")

    def audit(self) -> None:
        """Nothing is lost, nothing is sent twice, and whatever has a result has it once."""
        states = dict(self._rows("message_id, state"))
        came = Counter(str(message_from_bytes(it.data)["Message-ID"]) for it in self.sink.received)
        assert set(states) == self.queued
        lost = {key for key, state in states.items() if state != "in_doubt" and not came[key]}
        assert lost == set()
        assert {key for key, times in came.items() if times > 1} == set()
        assert set(states.values()) <= {"sent", "in_doubt"}
        results = self.server.query(
            "SELECT message_id, COUNT(*) FROM pillarbox_attempt WHERE result = 'sent' "
            "GROUP BY message_id HAVING COUNT(*) > 1"
        )
        assert results == []

    def assert_all_sent(self) -> None:
        """A worker that lives on knows every result: then nothing is in doubt either."""
        self.audit()
        assert self.states() == {"sent": len(self.queued)}


@pytest.fixture
def stress(server: Server) -> Iterator[Stress]:
    """An empty queue, and a sink that takes 30 ms for a mail."""
    for table in ("attempt", "recipient", "message", "drain"):
        server.query(f"DELETE FROM pillarbox_{table}")
    with smtp_sink() as sink:
        answer_slowly(sink, 0.03)
        yield Stress(server, sink)


def said(worker: Worker) -> tuple[int, int]:
    """Return how often it has said that the database is away, and that it is back."""
    output = worker.output()
    return output.count("The database does not answer"), output.count("The database answers again")


def _has_said(worker: Worker, times: int) -> bool:
    return said(worker) == (times, times)


def test_the_server_is_restarted_in_mid_drain_and_then_crashes(stress: Stress) -> None:
    stress.queue(300)
    with stress.worker() as worker:
        for times, how in enumerate((stress.server.fast, stress.server.crash), start=1):
            stress.wait_until_under_way(20)
            stress.server.restart(how, away_s=1)
            wait_for(partial(_has_said, worker, times))
        stress.wait_until_done()
        assert worker.stop() == 0
        assert said(worker) == (2, 2)  # however often it was tried
    stress.assert_all_sent()


def test_every_session_is_ended_again_and_again(stress: Stress) -> None:
    stress.queue(80 * STRESS_S)
    ended = 0
    with stress.worker(), stress.worker():
        stress.wait_until_under_way()
        until = time.monotonic() + STRESS_S
        while time.monotonic() < until:
            ended += stress.server.end_sessions()
            time.sleep(random.uniform(0.05, 0.4))
        stress.wait_until_done(timeout_s=60 + 2 * STRESS_S)
    assert ended > STRESS_S
    stress.assert_all_sent()


def test_a_reader_is_idle_in_its_transaction_all_the_time(stress: Stress) -> None:
    stress.queue(200)
    reader = stress.server.connect()
    try:
        cursor = reader.cursor()
        cursor.execute(SNAPSHOT[KIND])
        cursor.execute(STILL_QUEUED)
        assert list(cursor.fetchall()) == [(200,)]
        with stress.worker():
            stress.wait_until_done()
        cursor.execute(STILL_QUEUED)
        assert list(cursor.fetchall()) == [(200,)]  # so it was one transaction
    finally:
        reader.close()
    stress.assert_all_sent()


def test_the_answer_to_a_commit_is_lost(stress: Stress) -> None:
    stress.queue(300)
    upstream = (stress.server.host, stress.server.port)
    with ForgetfulProxy(upstream) as proxy:
        database = stress.server.settings(port=proxy.port)
        with stress.worker(database=database) as worker:
            for kind in ("claim", "begin", "record"):
                proxy.forget(kind)
            stress.wait_until_done()
            assert worker.stop() == 0
            assert "is refused" not in worker.output()
        assert proxy.forgotten == ["claim", "begin", "record"]
    stress.assert_all_sent()


def test_the_server_hangs_for_longer_than_a_lease(stress: Stress) -> None:
    stress.queue(100)
    with stress.worker(HASTY) as worker:
        stress.wait_until_under_way()
        with stress.server.hanging():
            time.sleep(1.5)
            arrived = len(stress.sink.received)
            time.sleep(2.5)
            assert len(stress.sink.received) == arrived
        stress.wait_until_done()
        assert worker.stop() == 0
    stress.audit()


def test_the_server_is_away_for_longer_than_a_lease(stress: Stress) -> None:
    stress.queue(200)
    with stress.worker(HASTY) as worker:
        stress.wait_until_under_way()
        stress.server.restart(stress.server.fast, away_s=3)
        stress.wait_until_done()
        assert worker.stop() == 0
        assert "has run out" in worker.output()
    stress.assert_all_sent()


def test_the_pool_of_connections_is_exhausted(stress: Stress) -> None:
    if KIND != "postgresql":  # Django has pools for PostgreSQL alone
        assert "pool" not in stress.server.settings()["OPTIONS"]
        return
    services.require("psycopg-pool")
    stress.queue(100)
    pool = {"min_size": 1, "max_size": 2, "timeout": 0.5}
    with stress.worker(CROWDED, database=stress.server.settings(pool=pool)) as worker:
        worker.wait_until_said("The database does not answer")
        stress.wait_until_under_way()
        stress.server.end_sessions()  # so that it wants a connection again, as the others do
        stress.wait_until_done()
        assert worker.stop() == 0
    stress.assert_all_sent()
