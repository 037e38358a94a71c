"""The drain at work: real SMTP servers, real faults, every database."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, ClassVar

import pytest
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.db import IntegrityError, OperationalError, connection, connections, transaction
from django.test import override_settings

from pillarbox import compat, send_email, send_emails, signals
from pillarbox.delivery import claims, groups, leases, ledger, recovery, wakes
from pillarbox.delivery import drain as drains
from pillarbox.delivery.drain import drain
from pillarbox.delivery.inline import deliver_inline
from pillarbox.delivery.ledger import Ledger
from pillarbox.delivery.senders import connections as connections_module
from pillarbox.delivery.senders import lanes, opening
from pillarbox.delivery.senders.base import Begin, Result, Wanted, Word
from pillarbox.delivery.senders.smtp import SMTPSender
from pillarbox.engines.base import Deadline, Engine
from pillarbox.engines.worker import Engine as Worker
from pillarbox.exceptions import Uncarriable
from pillarbox.models import (
    Attempt,
    Circuit,
    DatabaseNow,
    Drain,
    Message,
    RecipientState,
    State,
)
from pillarbox.outbox import hold
from tests.support.mailers import delivering_by, delivering_to
from tests.support.processes import wait_for
from tests.support.scripted_smtp import Entry, Hang, HangUp, Say, ScriptedServer, Step

pytestmark = pytest.mark.django_db(transaction=True)


class Bounded(Worker):
    """An engine that ends its drains."""

    drain_s: ClassVar[float] = 0.5
    kill_s: ClassVar[float] = 6.0

    def deadline(self) -> Deadline:
        return Deadline(self.drain_s, self.kill_s)


@contextmanager
def background(engine: Engine, **options: Any) -> Iterator[threading.Thread]:
    """Run a drain in a thread of its own while the block lasts, and wait for its end."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            drain(engine=engine, **options)
        except BaseException as error:
            failures.append(error)
            raise
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield thread
    finally:
        if "stop" in options:
            options["stop"].set()
        thread.join(30)
        assert not thread.is_alive()
        assert failures == []


def mail(count: int = 1, **options: Any) -> list[Message]:
    return [send_email(f"n{n}", "body", ["ada@example.org"], **options) for n in range(count)]


@pytest.fixture
def due() -> Callable[[], None]:
    """Return a function that makes whatever waits due now."""

    def hasten() -> None:
        Message.objects.filter(state=State.QUEUED).update(due_at=DatabaseNow())

    return hasten


def elsewhere(work: Callable[[], Any]) -> None:
    """Do something in a thread, and so on a connection of its own."""

    def run() -> None:
        work()
        connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


def states() -> dict[str, int]:
    counts: dict[str, int] = {}
    for state in Message.objects.values_list("state", flat=True):
        counts[state] = counts.get(state, 0) + 1
    return counts


def test_all_that_is_due_is_sent_once_over_kept_connections() -> None:
    mail(60)
    with ScriptedServer() as server, delivering_to(server):
        tally = drain(engine=Worker({}))
    assert tally == {"sent": 60}
    assert len(server.accepted) == 60
    subjects = {re.search(rb"Subject: (n\d+)", envelope.body) for envelope in server.accepted}
    assert {found[1] for found in subjects if found} == {b"n%d" % n for n in range(60)}
    assert server.connections <= 8
    assert states() == {"sent": 60}
    assert not Drain.objects.exists()


def test_connections_are_kept_between_drains_and_taken_up_without_a_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[str] = []
    open_in_thread = opening.Opener._open

    def note(opener: opening.Opener, this: opening.Opening) -> None:
        opened.append(this.mailer)
        open_in_thread(opener, this)

    monkeypatch.setattr(opening.Opener, "_open", note)
    with ScriptedServer() as server, delivering_to(server):
        for _ in range(3):
            mail(1)
            drain(engine=Worker({}))
        assert server.connections == 1
        assert server.verbs.count("QUIT") == 0
    assert len(server.accepted) == 3
    assert len(opened) == 1


def test_a_kept_connection_that_has_rested_is_asked_in_a_thread_whether_it_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with ScriptedServer() as server, delivering_to(server):
        mail(1)
        drain(engine=Worker({}))
        monkeypatch.setattr(connections_module, "PROBE_AFTER_S", 0.0)
        mail(1)
        drain(engine=Worker({}))
        assert server.connections == 1
        assert server.verbs.count("NOOP") == 1


@pytest.mark.parametrize("max_age_s", [0, 60])
def test_the_connection_to_the_database_is_kept_for_as_long_as_the_settings_say(
    max_age_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection.close()
    monkeypatch.setitem(connection.settings_dict, "CONN_MAX_AGE", max_age_s)
    drain(engine=Worker({}))
    assert (connection.connection is not None) == bool(max_age_s)
    connection.close()


def test_a_connection_to_the_database_that_was_cut_meanwhile_costs_no_wake(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connection.close()
    monkeypatch.setitem(connection.settings_dict, "CONN_MAX_AGE", 60)
    take, cut = leases.Lease.take, [OperationalError("cut")]

    def take_once_cut(lease: leases.Lease, *expected: Any) -> bool:
        if cut:
            raise cut.pop()
        return take(lease, *expected)

    with ScriptedServer() as server, delivering_to(server):
        mail(1)
        monkeypatch.setattr(leases.Lease, "take", take_once_cut)
        assert drain(engine=Worker({})) == {"sent": 1}
    connection.close()


def test_the_first_mail_of_an_idle_drain_is_read_before_its_connection_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[Word] = []
    collect = SMTPSender.collect

    def noted(sender: SMTPSender, timeout_s: float) -> list[Word]:
        words = collect(sender, timeout_s)
        said.extend(words)
        return words

    monkeypatch.setattr(SMTPSender, "collect", noted)
    mail(3)
    with ScriptedServer() as server, delivering_to(server):
        assert drain(engine=Worker({})) == {"sent": 3}
    first, *others = Message.objects.order_by("pk").values_list("pk", flat=True)
    assert {word.parcel.message.pk for word in said if isinstance(word, Wanted)} == set(others)
    assert {word.parcel.message.pk for word in said if isinstance(word, Begin)} == {first, *others}


def test_a_redirection_that_fails_sends_to_nobody(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pillarbox.delivery")

    def fault(record: logging.LogRecord) -> bool:
        if "is redirected" in record.msg:
            raise ValueError("a filter of the project's")
        return True

    mail(1)
    logging.getLogger("pillarbox.delivery").addFilter(fault)
    settings = {"REDIRECT_TO": ["staging@example.org"]}
    try:
        with (
            ScriptedServer() as server,
            override_settings(PILLARBOX=settings),
            delivering_to(server),
        ):
            drain(engine=Worker({}))
    finally:
        logging.getLogger("pillarbox.delivery").removeFilter(fault)
    assert server.accepted == []


def test_a_redirection_is_logged_once_somebody_takes_the_mail(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "pillarbox.delivery")
    mail(1)
    with override_settings(PILLARBOX={"REDIRECT_TO": ["staging@example.org"]}):
        with ScriptedServer() as server:
            pass
        with delivering_to(server):
            drain(engine=Worker({}))
        assert Message.objects.filter(state=State.QUEUED).count() == 1
        assert "is redirected" not in caplog.text
        Circuit.objects.all().delete()
        with ScriptedServer() as server, delivering_to(server):
            assert drain(engine=Worker({})) == {"sent": 1}
    assert caplog.text.count("is redirected") == 1


def test_a_server_that_hangs_up_after_each_mail_is_not_taken_for_one_that_is_down() -> None:
    mail(6)
    ending = {Step.DOT: Say("250 2.0.0 Queued", hang_up=True)}
    with (
        ScriptedServer(ending) as server,
        delivering_to(server),
        override_settings(PILLARBOX={"CONNECTIONS": 2}),
    ):
        drain(engine=Worker({}))
    assert states() == {"sent": 6}
    assert set(Message.objects.values_list("attempts", flat=True)) == {1}
    assert len(server.accepted) == 6
    assert not Circuit.objects.filter(state="open").exists()


def test_a_connection_that_the_server_closed_meanwhile_costs_no_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pillarbox.delivery.senders.connections.PROBE_AFTER_S", 0.0)
    with ScriptedServer({Step.NOOP: HangUp()}) as server, delivering_to(server):
        for _ in range(2):
            mail(1)
            drain(engine=Worker({}))
    assert server.connections == 2
    assert list(Message.objects.values_list("state", "attempts")) == [("sent", 1), ("sent", 1)]


def test_a_refused_message_stops_no_other_and_its_connection_is_used_again() -> None:
    send_email("bad", "b", ["bob@example.org"])
    mail(3)
    script = {Step.RCPT: {"bob@example.org": Say("550 5.1.1 Nobody here")}}
    with (
        ScriptedServer(script) as server,
        delivering_to(server),
        override_settings(PILLARBOX={"CONNECTIONS": 1}),
    ):
        drain(engine=Worker({}))
    assert states() == {"failed": 1, "sent": 3}
    assert server.connections == 1
    attempt = Message.objects.get(subject="bad").trail.get()
    assert (attempt.code, attempt.enhanced_code, attempt.stage) == (550, "5.1.1", "rcpt")


def test_a_connection_lost_after_the_dot_is_in_doubt_and_the_next_mail_goes() -> None:
    doubtful, good = mail(2, in_doubt="hold")
    with (
        ScriptedServer({Step.DOT: [HangUp()]}) as server,
        delivering_to(server),
        override_settings(PILLARBOX={"CONNECTIONS": 1}),
    ):
        drain(engine=Worker({}))
    doubtful.refresh_from_db()
    good.refresh_from_db()
    assert (doubtful.state, good.state) == (State.IN_DOUBT, State.SENT)
    attempt = doubtful.trail.get()
    assert (attempt.stage, attempt.server) == ("dot", f"{server.host}:{server.port}")
    assert server.connections == 2


def test_a_server_that_is_not_there_charges_nobody_and_is_asked_once() -> None:
    mail(40)
    with ScriptedServer() as server:
        pass  # closed: its port refuses
    with delivering_to(server), override_settings(PILLARBOX={"CONNECTIONS": 1}):
        tally = drain(engine=Worker({}))
    assert states() == {"queued": 40}
    assert set(Message.objects.values_list("attempts", flat=True)) == {0}
    # The first refusal opens the circuit: what was claimed is given back, and all is left alone.
    assert tally == {"mailer_down": 1}
    assert Circuit.objects.get().state == "open"
    assert not Message.objects.filter(due_at__gt=DatabaseNow()).exists()


def test_a_login_that_fails_is_the_mailers_fault() -> None:
    mail(1)
    script = {Step.AUTH: Say("535 5.7.8 No")}
    with (
        ScriptedServer(script, auth=True) as server,
        delivering_to(server, username="u", password="p"),
    ):
        drain(engine=Worker({}))
    message = Message.objects.get()
    assert (message.state, message.attempts) == (State.QUEUED, 0)
    attempt = message.trail.get()
    assert (attempt.result, attempt.code, attempt.stage) == ("mailer_down", 535, "open")
    assert attempt.server == f"{server.host}:{server.port}", "and not who logs in"


class Odd(Exception):
    """No library knows it."""


class OddBackend(BaseEmailBackend):
    """Raises an exception of an unknown class for one message."""

    sent: ClassVar[list[str]] = []

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{key: value for key, value in kwargs.items() if key == "alias"})

    def send_messages(self, email_messages: Any) -> int:
        for email in email_messages:
            if email.subject == "n1":
                raise Odd("what is this")
            self.sent.append(email.subject)
        return len(email_messages)


def test_an_exception_of_an_unknown_class_stops_nothing_but_its_own_message() -> None:
    mail(4)
    OddBackend.sent.clear()
    with delivering_by(f"{__name__}.OddBackend"):
        drain(engine=Worker({}))
    assert sorted(OddBackend.sent) == ["n0", "n2", "n3"]
    assert states() == {"sent": 3, "queued": 1}
    odd = Message.objects.get(subject="n1")
    assert (odd.attempts, odd.trail.get().result) == (1, "retry")


def test_content_that_cannot_be_read_fails_its_own_message_alone() -> None:
    broken, _ = mail(2)
    Message.objects.filter(pk=broken.pk).update(content='{"v": 99}')
    with ScriptedServer() as server, delivering_to(server):
        drain(engine=Worker({}))
    assert states() == {"failed": 1, "sent": 1}
    assert "is not of version" in Message.objects.get(pk=broken.pk).trail.get().reply


def test_mail_that_comes_while_a_drain_lingers_is_sent_by_it() -> None:
    with ScriptedServer() as server, delivering_to(server), background(Worker({})):
        wait_for(lambda: Drain.objects.filter(idle=True).exists())
        mail(1)
        wait_for(lambda: len(server.accepted) == 1)


def test_a_worker_finishes_the_mail_in_hand_and_gives_back_the_rest() -> None:
    mail(30)
    stop = threading.Event()
    slow = {Step.DOT: Say("250 2.0.0 Queued", over_s=0.4)}
    with (
        ScriptedServer(slow) as server,
        delivering_to(server),
        override_settings(PILLARBOX={"CONNECTIONS": 2}),
    ):
        with background(Worker({}), stop=stop, forever=True):
            wait_for(lambda: server.envelopes)
            stop.set()
        counts = states()
    assert counts.get("sending", 0) == 0
    assert counts["sent"] == len(server.accepted)
    assert counts["queued"] == 30 - len(server.accepted)
    assert 1 <= counts["sent"] < 30
    assert not Drain.objects.exists()


def test_a_drain_ends_at_its_deadline_and_wakes_a_successor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    woken: list[str] = []
    monkeypatch.setattr(wakes, "async_task", lambda path, **_: woken.append(path))
    mail(30)
    slow = {Step.DOT: Say("250 2.0.0 Queued", over_s=0.2)}
    with (
        ScriptedServer(slow) as server,
        delivering_to(server),
        override_settings(PILLARBOX={"CONNECTIONS": 1}),
    ):
        started = time.monotonic()
        drain(engine=Bounded({}))
    assert time.monotonic() - started < 3
    assert woken[-1] == "pillarbox.jobs.deliver_due"
    counts = states()
    assert 1 <= counts["sent"] < 30
    assert counts["sent"] + counts["queued"] == 30


def test_a_conversation_before_its_dot_is_broken_off_before_the_engine_kills() -> None:
    mail(1)
    with ScriptedServer({Step.DATA: Hang()}) as server, delivering_to(server, timeout=60):
        started = time.monotonic()
        drain(engine=Bounded({}))
        assert time.monotonic() - started < 5
    assert Message.objects.get().state == State.QUEUED
    assert server.accepted == []


def test_a_conversation_after_its_dot_is_in_doubt_when_it_is_broken_off() -> None:
    mail(1, in_doubt="hold")
    with ScriptedServer({Step.DOT: Hang()}) as server, delivering_to(server, timeout=60):
        drain(engine=Bounded({}))
    message = Message.objects.get()
    assert message.state == State.IN_DOUBT
    attempt = message.trail.get()
    assert (attempt.result, attempt.server) == ("in_doubt", f"{server.host}:{server.port}")


def test_a_drain_that_lost_its_lease_sends_nothing_more_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(leases, "RENEW_EVERY_S", 0.0)
    mail(20)
    slow = {Step.DOT: Say("250 2.0.0 Queued", over_s=0.3)}
    with (
        ScriptedServer(slow) as server,
        delivering_to(server),
        override_settings(PILLARBOX={"CONNECTIONS": 1}),
        background(Worker({})),
    ):
        wait_for(lambda: server.envelopes)
        Drain.objects.all().delete()  # as another's recovery does once the lease has run out
    assert len(server.envelopes) < 5
    assert "has run out" in caplog.text
    assert states()["sent"] == len(server.accepted)  # the late result counts: it was still its own


def test_no_database_no_sends_and_the_results_are_recorded_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mail(6)
    real = Ledger.commit
    failures = iter([False, True, True, True])

    def commit(self: Ledger, *args: Any, **kwargs: Any) -> Any:
        if next(failures, False):
            raise OperationalError("the server has gone away")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Ledger, "commit", commit)
    with (
        ScriptedServer() as server,
        delivering_to(server),
        override_settings(PILLARBOX={"CONNECTIONS": 2}),
    ):
        drain(engine=Worker({}))
    assert states() == {"sent": 6}
    assert len(server.accepted) == 6
    assert "sending waits" in caplog.text


def test_a_row_locked_by_a_long_transaction_is_sent_afterwards() -> None:
    if not connection.features.has_select_for_update_skip_locked:
        pytest.skip("SQLite locks no rows: a writer locks out all others")
    locked = mail(1)[0]
    stop = threading.Event()
    with (
        ScriptedServer() as server,
        delivering_to(server),
        background(Worker({}), stop=stop, forever=True),
    ):
        with transaction.atomic():
            Message.objects.select_for_update().get(pk=locked.pk)
            elsewhere(lambda: mail(3))
            wait_for(lambda: len(server.accepted) == 3)
        wait_for(lambda: len(server.accepted) == 4)
    assert states() == {"sent": 4}


def test_a_drain_ends_at_its_deadline_though_a_verb_holds_a_row_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not connection.features.has_select_for_update_skip_locked:
        pytest.skip("SQLite locks no rows: a writer locks out all others")
    monkeypatch.setattr(wakes, "async_task", lambda *_, **__: None)
    held = mail(2)[0]
    with ScriptedServer({Step.BANNER: Say("220 late", over_s=0.4)}) as server:
        with delivering_to(server), background(Bounded({})) as thread:
            wait_for(lambda: Message.objects.filter(state=State.SENDING).count() == 2)
            with transaction.atomic():
                hold(held)
                thread.join(10)
                assert not thread.is_alive()
        assert len(server.accepted) == 1
    assert states() == {"held": 1, "sent": 1}


def test_an_attempt_is_one_log_record_without_content(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pillarbox.delivery")
    send_email("Top secret", "the secret body", ["ada@example.org"], metadata={"k": "hidden"})
    with ScriptedServer() as server, delivering_to(server):
        drain(engine=Worker({}))
    (record,) = [record for record in caplog.records if record.name == "pillarbox.delivery"]
    details = vars(record)
    assert details["result"] == "sent"
    assert (details["code"], details["mailer"], details["attempt"]) == (250, "default", 1)
    assert details["took_ms"] >= 0
    text = repr(details)
    for private in ("secret", "ada@", "hidden"):
        assert private not in text


def test_signals_are_sent_after_the_commit() -> None:
    seen: list[tuple[str, str]] = []

    def receive(sender: type, message: Message, **details: Any) -> None:
        in_database = Message.objects.get(pk=message.pk).state
        assert not connection.in_atomic_block
        seen.append((message.state, in_database))

    signals.message_sent.connect(receive)
    try:
        mail(2)
        with ScriptedServer() as server, delivering_to(server):
            drain(engine=Worker({}))
    finally:
        signals.message_sent.disconnect(receive)
    assert seen == [("sent", "sent")] * 2


def test_a_receiver_that_raises_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def receive(sender: type, **details: Any) -> None:
        raise ZeroDivisionError

    signals.message_sent.connect(receive)
    try:
        mail(2)
        with ScriptedServer() as server, delivering_to(server):
            drain(engine=Worker({}))
    finally:
        signals.message_sent.disconnect(receive)
    assert states() == {"sent": 2}
    assert "A signal receiver failed" in caplog.text


@override_settings(PILLARBOX={"REDIRECT_TO": ["staging@example.net"]})
def test_redirect_to_takes_everything_and_logs_who_was_meant(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="pillarbox.delivery")
    send_email("s", "b", ["ada@example.org"], cc=["bob@example.org"], bcc=["eve@example.org"])
    with ScriptedServer() as server, delivering_to(server):
        drain(engine=Worker({}))
    (envelope,) = server.accepted
    assert envelope.recipients == ["staging@example.net"]
    assert b"eve@" not in envelope.body
    assert "ada@example.org, bob@example.org, eve@example.org" in caplog.text
    assert states() == {"sent": 1}


class Newsletter(EmailMessage):
    """Says by itself who gets it."""

    def recipients(self) -> list[str]:
        return ["ada@example.org", "bob@example.org"]


@override_settings(PILLARBOX={"REDIRECT_TO": ["staging@example.net"]})
def test_redirect_to_holds_for_a_class_that_says_by_itself_who_gets_it() -> None:
    send_emails([Newsletter("s", "b", to=["list@example.org"])])
    with (
        ScriptedServer() as server,
        delivering_to(server, path="django.core.mail.backends.smtp.EmailBackend"),
    ):
        drain(engine=Worker({}))
    assert [envelope.recipients for envelope in server.accepted] == [["staging@example.net"]]


def test_a_retry_by_a_foreign_backend_serves_only_who_did_not_get_it() -> None:
    send_emails([Newsletter("s", "b", to=["list@example.org"])])
    script = {Step.RCPT: {"bob@example.org": Say("451 4.3.0 Not now")}}
    with ScriptedServer(script) as server, delivering_to(server):
        drain(engine=Worker({}))
    Message.objects.update(due_at=DatabaseNow())
    with (
        ScriptedServer() as server,
        delivering_to(server, path="django.core.mail.backends.smtp.EmailBackend"),
    ):
        drain(engine=Worker({}))
    assert [envelope.recipients for envelope in server.accepted] == [["bob@example.org"]]
    assert states() == {"sent": 1}


class Signed(EmailMessage):
    """Writes its own MIME."""

    def message(self, **policy: Any) -> Any:
        message = super().message(**policy)
        message["X-Signed"] = "yes"
        del message["Message-ID"]
        message["Message-ID"] = "<signed@example.org>"
        return message


def test_a_class_that_writes_its_own_mime_arrives_as_it_wrote_it() -> None:
    send_emails([Signed("s", "b", to=["ada@example.org"])])
    with ScriptedServer() as server, delivering_to(server):
        drain(engine=Worker({}))
    assert b"X-Signed: yes" in server.accepted[0].body
    assert Message.objects.get().message_id == "<signed@example.org>"


def test_a_class_that_writes_its_own_mime_is_refused_at_the_call_for_an_api() -> None:
    mailers = {"api": {"BACKEND": "anymail.backends.test.EmailBackend"}}
    given: dict[str, Any] = {"PILLARBOX": {"STREAMS": {"default": {"mailers": ["api"]}}}}
    if compat.HAS_MAILERS:
        given["MAILERS"] = mailers
    else:
        given["PILLARBOX"]["MAILERS"] = mailers
    with override_settings(**given), pytest.raises(Uncarriable, match="Signed writes its own"):
        send_emails([Signed("s", "b", to=["ada@example.org"])])
    assert not Message.objects.exists()


def test_inline_delivery_uses_the_callers_thread_and_leaves_nothing_open() -> None:
    mail(3)
    before = threading.active_count()
    with ScriptedServer() as server, delivering_to(server):
        running = threading.active_count()
        assert deliver_inline() == {"sent": 3}
        assert server.verbs.count("QUIT") == 1
        assert threading.active_count() <= running + 1
    assert len(server.accepted) == 3
    assert threading.active_count() == before
    assert not Drain.objects.exists()


def test_inline_delivery_of_some_leaves_the_others() -> None:
    first, second = mail(2)
    with ScriptedServer() as server, delivering_to(server):
        deliver_inline([first.pk])
    second.refresh_from_db()
    assert second.state == State.QUEUED
    assert len(server.accepted) == 1


def test_an_email_message_of_a_foreign_backend_that_sends_nothing_is_not_sent() -> None:
    mail(1)
    with delivering_by(f"{__name__}.SilentBackend"):
        drain(engine=Worker({}))
    assert Message.objects.get().state != State.SENT


class SilentBackend(OddBackend):
    """Says that it sent none."""

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        return 0


class SlowBackend(OddBackend):
    """Takes the mail, and so long that the drain's lease runs out meanwhile."""

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        Drain.objects.update(lease_until=DatabaseNow(timedelta(seconds=-1)))
        return len(email_messages)


def test_inline_delivery_records_a_mail_that_took_longer_than_its_lease(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leases, "RENEW_EVERY_S", 0)
    first, second = (send_email(name, "b", ["ada@example.org"]) for name in ("first", "second"))
    with delivering_by(f"{__name__}.SlowBackend"):
        deliver_inline()
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.state, first.attempts) == (State.SENT, 1)
    # Left to recovery, never begun.
    assert (second.state, second.begun_at) == (State.SENDING, None)


def test_what_waits_behind_a_conversation_without_end_is_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lanes, "STUCK_AFTER_S", 0.3)
    monkeypatch.setattr(drains, "TEND_EVERY_S", 0.1)
    mail(3)
    stop = threading.Event()
    with (
        ScriptedServer({Step.DATA: [Hang(), None, None]}) as server,
        delivering_to(server, timeout=20),
        override_settings(PILLARBOX={"CONNECTIONS": 1}),
        background(Worker({}), stop=stop, forever=True),
    ):
        wait_for(lambda: "DATA" in server.verbs)
        wait_for(lambda: states() == {"sending": 1, "queued": 2})
        elsewhere(lambda: drain(engine=Worker({})))
        assert states() == {"sending": 1, "sent": 2}
        server.close()


def test_a_resend_that_is_refused_leaves_the_doubt(due: Callable[[], None]) -> None:
    message = mail(1, in_doubt="resend")[0]
    script: dict[Step, Entry] = {Step.DOT: [HangUp(), Say("451 4.3.0 Later"), Say("554 5.6.0 No")]}
    with ScriptedServer(script) as server, delivering_to(server):
        for _ in range(3):
            drain(engine=Worker({}))
            due()
    message.refresh_from_db()
    assert (message.state, message.attempts, message.resends) == (State.IN_DOUBT, 3, 1)
    assert message.recipients.get().state == RecipientState.IN_DOUBT


def test_a_reply_that_no_database_takes_stops_no_other_result(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refusing(result: Result) -> groups.Tried:
        if "of no kind" in result.outcome.reply.text:
            raise IntegrityError("refused")
        return tried(result)

    tried = groups.tried
    monkeypatch.setattr(ledger, "tried", refusing)
    mail(3)
    with (
        ScriptedServer({Step.DOT: [Say("250 of no kind")]}) as server,
        delivering_to(server),
        override_settings(PILLARBOX={"CONNECTIONS": 1}),
    ):
        drain(engine=Worker({}))
    assert states() == {"sent": 3}
    assert [one.reply for one in Attempt.objects.order_by("reply")] == ["", "Queued", "Queued"]
    assert "cannot be stored" in caplog.text


def test_a_reply_that_the_character_set_cannot_hold_stops_no_mail() -> None:
    if connection.vendor != "mysql":
        pytest.skip("elsewhere a column has the character set of its database")
    mail(3)
    alter = "ALTER TABLE pillarbox_attempt CONVERT TO CHARACTER SET "
    with connection.cursor() as cursor:
        cursor.execute(alter + "utf8mb3")
    try:
        with (
            ScriptedServer({Step.DOT: [Say("250 2.0.0 Queued \N{LOVE LETTER}")]}) as server,
            delivering_to(server),
            override_settings(PILLARBOX={"CONNECTIONS": 1}),
        ):
            drain(engine=Worker({}))
    finally:
        with connection.cursor() as cursor:
            cursor.execute(alter + "utf8mb4")
    assert states() == {"sent": 3}
    assert len(server.accepted) == 3
    assert [one.reply for one in Attempt.objects.order_by("reply")] == ["", "Queued", "Queued"]


def test_inline_delivery_waits_a_moment_for_a_locked_row_and_not_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not connection.features.has_select_for_update_skip_locked:
        pytest.skip("SQLite locks no rows: a writer locks out all others")
    released, locked = threading.Event(), threading.Event()

    def lock(pk: int, for_s: float) -> None:
        with transaction.atomic():
            Message.objects.select_for_update().get(pk=pk)
            locked.set()
            released.wait(for_s)
        connections.close_all()

    def claim_and_lock(*args: Any, **options: Any) -> claims.Batch:
        batch = claim(*args, **options)
        if batch.messages:
            locked.clear()
            threading.Thread(target=lock, args=(batch.messages[0].pk, hold_s)).start()
            assert locked.wait(10)
        return batch

    claim = claims.claim
    monkeypatch.setattr(claims, "claim", claim_and_lock)
    with ScriptedServer() as server, delivering_to(server):
        hold_s = 0.3
        mail(2)
        deliver_inline()
        assert states() == {"sent": 2}
        hold_s = 5.0
        mail(2)
        started = time.monotonic()
        deliver_inline()
        assert time.monotonic() - started < 4
        assert states() == {"sent": 3, "sending": 1}
        released.set()
        wait_for(lambda: recovery.recover("default") == [] and states().get("queued") == 1)
