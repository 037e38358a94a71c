"""A worker that stood still for longer than its lease and goes on: it sends nothing more.

Real processes, SIGSTOP and SIGCONT, a real SMTP server. The worker that stands still has a lease of
2 s instead of 15 (tests/support/stress.py); the one that takes over is an ordinary one.
"""

from __future__ import annotations

import re
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from django.db import connection
from pytest_django import Settings

from pillarbox import send_email
from pillarbox.models import Drain, Message, State
from tests.support.mailers import SMTP
from tests.support.processes import Worker, running, wait_for, with_settings
from tests.support.scripted_smtp import Say, ScriptedServer, Step
from tests.support.stress import LEASE_S

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.django_db(transaction=True),
]

HASTY = ["-m", "tests.support.stress", "hasty"]
WORKER = ["-m", "django", "pillarbox", "worker"]
READY = "a worker delivers on"
SLOW_S = 1.5


@pytest.fixture(autouse=True)
def _engine(settings: Settings) -> None:
    settings.PILLARBOX = {"ENGINE": "worker"}


def env_of(env: dict[str, str], server: ScriptedServer) -> dict[str, str]:
    options = {"host": server.host, "port": server.port}
    pillarbox = {
        "ENGINE": "worker",
        "CONNECTIONS": 1,
        "MAILERS": {"smtp": {"BACKEND": SMTP, "OPTIONS": options}},
        "STREAMS": {"default": {"mailers": ["smtp"], "in_doubt": "hold"}},
    }
    return with_settings(env, REMOVE=["MAILERS"], PILLARBOX=pillarbox)


def queue(*names: str) -> None:
    for name in names:
        send_email(name, "body", ["ada@example.org"])


def states() -> dict[str, str]:
    return dict(Message.objects.values_list("subject", "state"))


def arrived(server: ScriptedServer) -> Counter[str]:
    """Return which subjects were accepted, and how often."""
    bodies = [envelope.body.decode() for envelope in server.accepted]
    return Counter(re.findall(r"^Subject: (\w+)", "\n".join(bodies), re.MULTILINE))


def stop(worker: Worker) -> None:
    """Stop the process, but not where it would keep all others from SQLite meanwhile."""
    while True:
        worker.popen.send_signal(signal.SIGSTOP)
        if connection.vendor != "sqlite" or _can_write():
            return
        worker.popen.send_signal(signal.SIGCONT)
        time.sleep(0.05)


def _can_write() -> bool:
    name = str(connection.settings_dict["NAME"])
    with closing(sqlite3.connect(name, timeout=0.2, isolation_level=None)) as own:
        try:
            own.execute("BEGIN IMMEDIATE")
            own.execute("ROLLBACK")
        except sqlite3.OperationalError:
            return False
    return True


@contextmanager
def taken_over(worker: Worker, env: dict[str, str]) -> Iterator[None]:
    """Stop the worker until its lease has run out, and run another one from then on."""
    stop(worker)
    try:
        drain = Drain.objects.get()
        time.sleep(LEASE_S)
        with running(WORKER, env, ready=READY):
            wait_for(lambda: not Drain.objects.filter(pk=drain.pk).exists())
            yield
    finally:
        worker.popen.send_signal(signal.SIGCONT)


def go_on(worker: Worker) -> None:
    """Continue it, and wait until it has said what that means."""
    worker.popen.send_signal(signal.SIGCONT)
    worker.wait_until_said("has run out. Nothing more of what it claimed is sent.")


def test_a_late_result_settles_and_the_rest_of_the_batch_is_not_sent(
    process_env: dict[str, str],
) -> None:
    queue("first", "second", "third")
    slow = {Step.DOT: [Say("250 2.0.0 Queued", over_s=SLOW_S)]}
    with ScriptedServer(slow) as server:
        env = env_of(process_env, server)
        with running(HASTY, env, ready=READY) as worker:
            wait_for(lambda: arrived(server)["first"])  # and its reply is on the way
            with taken_over(worker, env):
                wait_for(lambda: states()["first"] == State.IN_DOUBT)
                wait_for(lambda: states()["second"] == states()["third"] == State.SENT)
                go_on(worker)
                wait_for(lambda: states()["first"] == State.SENT)
            assert worker.stop() == 0
            said = worker.output()
    first = Message.objects.get(subject="first")
    assert [attempt.result for attempt in first.trail.all()] == ["in_doubt", "sent"]
    assert f"Message {first.pk}: sent" in said
    assert arrived(server) == {"first": 1, "second": 1, "third": 1}


def test_a_body_that_was_not_yet_written_is_written_no_more(
    process_env: dict[str, str],
) -> None:
    queue("first", "second")
    slow = {Step.RCPT: [Say("250 2.1.5 Recipient ok", over_s=SLOW_S)]}
    with ScriptedServer(slow) as server:
        env = env_of(process_env, server)
        with running(HASTY, env, ready=READY) as worker:
            wait_for(lambda: "RCPT" in server.verbs)
            with taken_over(worker, env):
                wait_for(lambda: states() == {"first": State.SENT, "second": State.SENT})
                go_on(worker)
            assert worker.stop() == 0
    first = Message.objects.get(subject="first")
    # Nobody had begun it, so that nothing was in doubt, and the server's 354 came too late.
    assert [(attempt.result, attempt.stage) for attempt in first.trail.all()] == [("sent", "dot")]
    assert arrived(server) == {"first": 1, "second": 1}
    assert [envelope.ended for envelope in server.envelopes].count("cut") == 1
