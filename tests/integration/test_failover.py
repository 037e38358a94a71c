"""A mailer falls and mail goes on by the next: real SMTP servers, every database."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections
from django.test import override_settings

from pillarbox import compat, send_email
from pillarbox.delivery import circuits, wakes
from pillarbox.delivery.drain import drain
from pillarbox.delivery.inline import deliver_inline
from pillarbox.delivery.senders.connections import pool
from pillarbox.engines.base import Deadline, Engine
from pillarbox.engines.worker import Engine as Worker
from pillarbox.models import Circuit, DatabaseNow, Drain, Message, State
from tests.support.mailers import delivering_via
from tests.support.processes import wait_for
from tests.support.scripted_smtp import Hang, HangUp, Say, ScriptedServer, Step

pytestmark = pytest.mark.django_db(transaction=True)

BOTH = {
    "STREAMS": {
        "default": {"mailers": ["smtp", "backup"]},
        "other": {"mailers": ["backup"]},
        "alone": {"mailers": ["smtp"]},
    }
}


class Delaying(Worker):
    """An engine that can be asked for a wake later on."""

    supports_delay = True


class Bounded(Worker):
    """An engine that ends its drains."""

    def deadline(self) -> Deadline:
        return Deadline(1.0, 8.0)


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    with override_settings(PILLARBOX=BOTH):
        yield


@contextmanager
def worker(**options: Any) -> Iterator[None]:
    """Run a worker in a thread of its own while the block lasts, and stop it."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            drain(engine=Worker({}), stop=stop, forever=True, **options)
        except BaseException as error:
            failures.append(error)
            raise
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()
        assert failures == []


def mail(count: int = 1, **options: Any) -> list[Message]:
    return [send_email(f"n{n}", "body", ["ada@example.org"], **options) for n in range(count)]


def mailers_of(state: State) -> list[tuple[str, int]]:
    rows = Message.objects.filter(state=state).order_by("pk")
    return list(rows.values_list("mailer", "attempts"))


@pytest.fixture
def gone() -> ScriptedServer:
    """A server that is not there: its port refuses."""
    server = ScriptedServer()
    server.close()
    return server


def test_the_second_mailer_gets_the_mail_within_a_second_and_nobody_pays(
    gone: ScriptedServer,
) -> None:
    mail(20)
    with ScriptedServer() as backup, delivering_via(smtp=gone, backup=backup):
        started = time.monotonic()
        tally = drain(engine=Worker({}))
        assert backup.accepted[0].at - started < 1
    assert tally == {"mailer_down": 1, "sent": 20}
    assert mailers_of(State.SENT) == [("backup", 1)] * 20
    circuit = Circuit.objects.get()
    assert (circuit.mailer, circuit.state) == ("smtp", "open")


def test_while_the_circuit_is_open_the_mailer_is_left_alone(gone: ScriptedServer) -> None:
    with ScriptedServer() as backup, delivering_via(smtp=gone, backup=backup):
        for _ in range(3):
            mail(2)
            drain(engine=Worker({}))
    assert len(backup.accepted) == 6
    assert Circuit.objects.get().failures == 1


def test_the_first_mailer_carries_again_after_its_time(
    gone: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuits, "OPEN_FOR", timedelta(seconds=1))
    with (
        ScriptedServer() as smtp,
        ScriptedServer() as backup,
        delivering_via(smtp=gone, backup=backup) as options,
        worker(),
    ):
        mail(3)
        wait_for(lambda: len(backup.accepted) == 3)
        options["smtp"]["port"] = smtp.port
        time.sleep(1)
        # On a slow machine a trial may have failed meanwhile, and the wait have doubled.
        while not smtp.accepted:
            mail(1)
            time.sleep(0.5)
        wait_for(lambda: Circuit.objects.filter(state="closed").exists())
        wait_for(lambda: not Message.objects.exclude(state=State.SENT).exists())
        time.sleep(2 * circuits.LOOK_OFTEN_S)
        before = len(smtp.accepted)
        mail(5)
        wait_for(lambda: len(smtp.accepted) == before + 5)


def test_a_trial_uses_one_message_and_gives_it_back_uncharged(
    gone: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuits, "OPEN_FOR", timedelta(seconds=0.3))
    monkeypatch.setattr(circuits, "OPEN_FOR_MAX", timedelta(seconds=0.3))
    mail(6, stream="alone")
    with ScriptedServer() as backup, delivering_via(smtp=gone, backup=backup), worker():
        wait_for(lambda: Circuit.objects.filter(failures__gte=4).exists())
    assert mailers_of(State.QUEUED) == [("smtp", 0)] + [("", 0)] * 5
    attempts = Message.objects.order_by("pk")[0].trail.all()
    assert {attempt.result for attempt in attempts} == {"mailer_down"}
    assert backup.accepted == []


def test_of_two_workers_one_tries_the_mailer(monkeypatch: pytest.MonkeyPatch) -> None:
    mail(10, stream="alone")
    Circuit.objects.create(mailer="smtp", state="open", failures=1, open_until=DatabaseNow())
    slow = {Step.BANNER: [Say("220 late", over_s=1.0)]}
    with (
        ScriptedServer(slow) as smtp,
        ScriptedServer() as backup,
        delivering_via(smtp=smtp, backup=backup),
        worker(),
        worker(),
    ):
        wait_for(lambda: Circuit.objects.filter(state="half_open").exists())
        wait_for(lambda: Drain.objects.count() == 2)
        time.sleep(0.4)
        assert smtp.connections == 1
        assert Message.objects.filter(state=State.SENDING).count() == 1
        wait_for(lambda: len(smtp.accepted) == 10)
    assert Circuit.objects.get().state == "closed"


def test_a_421_alone_opens_the_circuit() -> None:
    mail(5)
    script = {Step.BANNER: Say("421 4.3.2 Too many connections", hang_up=True)}
    with (
        ScriptedServer(script) as smtp,
        ScriptedServer() as backup,
        delivering_via(smtp=smtp, backup=backup),
    ):
        drain(engine=Worker({}))
    assert smtp.connections == 1
    assert len(backup.accepted) == 5
    circuit = Circuit.objects.get()
    assert (circuit.state, circuit.reason) == ("open", "421 (open)") or circuit.reason == (
        "421 4.3.2 (open)"
    )


def test_a_421_beside_working_connections_halves_them_and_loses_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mail(40)
    busy = Say("421 4.3.2 Too many connections", hang_up=True)
    script: dict[Step, Any] = {
        Step.BANNER: [None, None, busy],
        Step.DOT: Say("250 2.0.0 Queued", over_s=0.05),
    }
    with (
        ScriptedServer(script) as smtp,
        ScriptedServer() as backup,
        delivering_via(smtp=smtp, backup=backup),
        override_settings(PILLARBOX={**BOTH, "CONNECTIONS": 3}),
    ):
        drain(engine=Worker({}))
        assert pool.allowance("smtp", 3) == 1
    assert len(smtp.accepted) == 40
    assert backup.accepted == []
    assert not Circuit.objects.exists()
    assert mailers_of(State.SENT) == [("smtp", 1)] * 40
    assert "Mailer smtp: has too many connections (421), halved." in caplog.text


def test_halved_connections_grow_by_one_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("pillarbox.delivery.senders.connections.time.monotonic", lambda: clock[0])
    try:
        pool.halve("smtp", 8)
        allowed = []
        for _ in range(6):
            allowed.append(pool.allowance("smtp", 8))
            clock[0] += 60
        pool.halve("smtp", 1)
        assert pool.allowance("smtp", 8) == 1
    finally:
        pool.close()
    assert allowed == [4, 5, 6, 7, 8, 8]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ({Step.AUTH: Say("535 5.7.8 No")}, "535 5.7.8 (open)"),
        ({Step.BANNER: HangUp()}, "SMTPServerDisconnected (open)"),
        ({Step.MAIL: Say("421 4.3.2 Shutting down", hang_up=True)}, "421 4.3.2 (mail)"),
    ],
    ids=["login", "banner", "mail"],
)
def test_a_fault_before_the_message_goes_by_the_next_mailer_uncharged(
    script: dict[Step, Any], reason: str
) -> None:
    mail(3)
    with (
        ScriptedServer(script, auth=True) as smtp,
        ScriptedServer() as backup,
        delivering_via(smtp=smtp, backup=backup) as options,
        override_settings(PILLARBOX={**BOTH, "CONNECTIONS": 1}),
    ):
        options["smtp"] |= {"username": "u", "password": "p"}
        drain(engine=Worker({}))
    assert mailers_of(State.SENT) == [("backup", 1)] * 3
    assert Circuit.objects.get().reason == reason


def test_a_server_without_the_starttls_that_is_asked_for_is_at_fault() -> None:
    mail(2)
    with (
        ScriptedServer() as smtp,
        ScriptedServer() as backup,
        delivering_via(smtp=smtp, backup=backup) as options,
    ):
        options["smtp"] |= {"use_tls": True}
        drain(engine=Worker({}))
    assert smtp.accepted == []
    assert len(backup.accepted) == 2
    assert Circuit.objects.get().reason == "SMTPNotSupportedError (open)"


def test_a_paused_mailer_carries_nothing_until_it_is_resumed() -> None:
    with (
        ScriptedServer() as smtp,
        ScriptedServer() as backup,
        delivering_via(smtp=smtp, backup=backup),
        worker(),
    ):
        mail(1)
        wait_for(lambda: len(smtp.accepted) == 1)
        circuits.pause("smtp", "default")
        time.sleep(5.5)  # a worker reads the rows every 5 s while all is well
        mail(3)
        mail(1, stream="alone")
        wait_for(lambda: len(backup.accepted) == 3)
        circuits.resume("smtp", "default")
        wait_for(lambda: len(smtp.accepted) == 2)


def test_a_silent_mailer_does_not_slow_the_other_stream() -> None:
    mail(30, stream="alone")
    mail(10, stream="other")
    with (
        ScriptedServer({Step.BANNER: Hang()}) as smtp,
        ScriptedServer() as backup,
        delivering_via(smtp=smtp, backup=backup) as options,
        override_settings(PILLARBOX={**BOTH, "CONNECTIONS": 2}),
    ):
        options["smtp"]["timeout"] = 60
        with worker():
            started = time.monotonic()
            wait_for(lambda: len(backup.accepted) == 10)
            mail(1, stream="other")
            wait_for(lambda: len(backup.accepted) == 11)
            assert time.monotonic() - started < 3
            stopped = time.monotonic()
        assert time.monotonic() - stopped < 3  # nor does it hold the stop
    assert smtp.connections == 1
    assert Message.objects.filter(stream="alone", state=State.QUEUED).count() == 30
    assert set(Message.objects.filter(stream="alone").values_list("attempts", flat=True)) == {0}
    assert not Drain.objects.exists()


def test_a_mailer_slow_in_every_conversation_leaves_the_other_its_part() -> None:
    mail(30, stream="alone")
    slow = {Step.DOT: Say("250 2.0.0 Queued", over_s=4.0)}
    with (
        ScriptedServer(slow) as smtp,
        ScriptedServer() as backup,
        delivering_via(smtp=smtp, backup=backup),
        override_settings(PILLARBOX={**BOTH, "CONNECTIONS": 2}),
        worker(),
    ):
        wait_for(lambda: len(smtp.envelopes) == 2)
        started = time.monotonic()
        mail(5, stream="other")
        wait_for(lambda: len(backup.accepted) == 5)
        assert time.monotonic() - started < 2
        assert not Message.objects.filter(mailer="smtp", state=State.SENT).exists()


def test_a_server_slower_than_a_drains_deadline_gets_its_mail_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wakes, "async_task", lambda *_, **__: None)
    mail(5, stream="alone")
    slow = {Step.BANNER: Say("220 late", over_s=1.6)}
    with ScriptedServer(slow) as smtp, delivering_via(smtp=smtp):
        drain(engine=Bounded({}))
    assert len(smtp.accepted) == 1
    assert mailers_of(State.QUEUED) == [("", 0)] * 4


def test_a_mailer_that_is_silent_until_the_engine_kills_is_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wakes, "async_task", lambda *_, **__: None)
    mail(5)
    with (
        ScriptedServer({Step.BANNER: Hang()}) as smtp,
        ScriptedServer() as backup,
        delivering_via(smtp=smtp, backup=backup) as options,
    ):
        options["smtp"]["timeout"] = 60
        started = time.monotonic()
        drain(engine=Bounded({}))
        assert time.monotonic() - started < 6
        assert Circuit.objects.get().reason == "TimeoutError (open)"
        drain(engine=Bounded({}))
        assert len(backup.accepted) == 5
    assert mailers_of(State.SENT) == [("backup", 1)] * 5


def test_what_is_in_doubt_under_hold_is_not_sent_by_the_next_mailer() -> None:
    mail(1, in_doubt="hold")
    with (
        ScriptedServer({Step.DOT: HangUp(), Step.BANNER: [None, HangUp()]}) as smtp,
        ScriptedServer() as backup,
        delivering_via(smtp=smtp, backup=backup),
    ):
        drain(engine=Worker({}))
        mail(1)
        drain(engine=Worker({}))
    assert Circuit.objects.get().state == "open"
    assert [message.state for message in Message.objects.order_by("pk")] == ["in_doubt", "sent"]
    assert len(backup.accepted) == 1


def test_mail_whose_mailers_are_all_down_expires_all_the_same() -> None:
    first, second = mail(2, stream="alone", expires_at=timedelta(hours=1))
    Message.objects.filter(pk=first.pk).update(expires_at=DatabaseNow(timedelta(seconds=-1)))
    later = DatabaseNow(timedelta(minutes=5))
    Circuit.objects.create(mailer="smtp", state="open", failures=1, open_until=later)
    with ScriptedServer() as smtp, delivering_via(smtp=smtp):
        tally = drain(engine=Worker({}))
    assert tally == {"expired": 1}
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.state, second.state) == (State.EXPIRED, State.QUEUED)


def test_mail_for_a_hinted_mailer_that_is_down_waits_and_the_rest_goes(
    gone: ScriptedServer,
) -> None:
    mailers = {
        "default": {
            "BACKEND": "pillarbox.backends.queue.EmailBackend",
            "OPTIONS": {"using": "smtp"},
        },
        "smtp": {"BACKEND": "pillarbox.backends.smtp.EmailBackend"},
        "bulk": {"BACKEND": "pillarbox.backends.smtp.EmailBackend"},
    }
    given: dict[str, Any] = {"PILLARBOX": {"MAILERS": mailers}}
    if compat.HAS_MAILERS:
        given = {"MAILERS": mailers, "PILLARBOX": {}}
    with ScriptedServer() as smtp, delivering_via(smtp=smtp, bulk=gone), override_settings(**given):
        hinted, _ = mail(2)
        Message.objects.filter(pk=hinted.pk).update(using="bulk")
        assert drain(engine=Worker({})) == {"mailer_down": 1, "sent": 1}
        mail(1)
        assert drain(engine=Worker({})) == {"sent": 1}
        assert Circuit.objects.get().mailer == "bulk"
    assert [message.mailer for message in Message.objects.order_by("pk")] == [
        "bulk",
        "smtp",
        "smtp",
    ]


@pytest.mark.parametrize("engine", [Delaying, Worker], ids=["with-delay", "without"])
def test_a_drain_that_leaves_asks_for_one_wake_when_the_mailer_may_be_tried(
    gone: ScriptedServer, monkeypatch: pytest.MonkeyPatch, engine: type[Engine]
) -> None:
    delays: list[float] = []
    monkeypatch.setattr(
        wakes, "async_task", lambda _, delay=None: delays.append(delay.total_seconds())
    )
    monkeypatch.setattr(wakes, "_later_at", None)
    with delivering_via(smtp=gone):
        for _ in range(3):
            mail(1, stream="alone")
            drain(engine=engine({}))
    if engine is Worker:
        assert delays == []
    else:
        assert len(delays) == 1
        assert 25 < delays[0] <= 30


def test_inline_delivery_goes_by_the_next_mailer_too(gone: ScriptedServer) -> None:
    messages = mail(4)
    with ScriptedServer() as backup, delivering_via(smtp=gone, backup=backup):
        assert deliver_inline([messages[0].pk]) == {"mailer_down": 1, "sent": 1}
        assert deliver_inline() == {"sent": 3}
    assert len(backup.accepted) == 4


def test_inline_delivery_tries_a_mailer_whose_time_has_come() -> None:
    mail(3, stream="alone")
    Circuit.objects.create(mailer="smtp", state="open", failures=1, open_until=DatabaseNow())
    with ScriptedServer() as smtp, delivering_via(smtp=smtp):
        assert deliver_inline() == {"sent": 3}
    assert len(smtp.accepted) == 3
    assert Circuit.objects.get().state == "closed"


def test_the_log_says_what_becomes_of_a_mailer(
    gone: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pillarbox.delivery")
    mail(1)
    with ScriptedServer() as backup, delivering_via(smtp=gone, backup=backup):
        drain(engine=Worker({}))
    (record,) = [record for record in caplog.records if "circuit" in record.getMessage()]
    assert record.getMessage() == (
        "Mailer smtp: circuit opens for 30 s (ConnectionRefusedError (open))."
    )
    assert vars(record)["mailer"] == "smtp"
