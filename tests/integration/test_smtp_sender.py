"""The loop that drives all SMTP connections, through the drain and over real sockets."""

from __future__ import annotations

import dataclasses
import re
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import trustme
from django.core.mail import EmailMessage
from django.db import connection, connections, transaction
from django.test import override_settings

from pillarbox import compat, send_email
from pillarbox.backends.smtp import EmailBackend
from pillarbox.delivery import parcels, routes
from pillarbox.delivery.drain import drain
from pillarbox.delivery.ledger import Ledger
from pillarbox.delivery.outcomes import Retry, Sent
from pillarbox.delivery.senders import smtp
from pillarbox.delivery.senders.base import Begin, Parcel, Result, Wanted, Word
from pillarbox.delivery.senders.both import MixedSender, goes_by_loop
from pillarbox.delivery.senders.connections import pool
from pillarbox.delivery.senders.pipeline import Pipeline
from pillarbox.delivery.senders.smtp import SMTPSender
from pillarbox.delivery.senders.wire import Wire
from pillarbox.engines.worker import Engine as Worker
from pillarbox.models import Message, State
from pillarbox.outbox import cancel
from tests.services import SMTP_SINK
from tests.support.delay_proxy import delay_proxy
from tests.support.mailers import SMTP, delivering_by, delivering_to
from tests.support.ports import free_port, wait_for_port
from tests.support.processes import wait_for
from tests.support.scripted_smtp import HangUp, Say, ScriptedServer, Step

pytestmark = pytest.mark.django_db(transaction=True)

ESMTP = ("SIZE 26214400", "8BITMIME", "ENHANCEDSTATUSCODES", "PIPELINING")
PLAIN = ESMTP[:3]
AUTHORITY = trustme.CA()
ONE_CONNECTION = override_settings(PILLARBOX={"CONNECTIONS": 1})
BIG = "A line of a body that is far larger than what the sockets hold.\n" * 100_000


def mail(count: int = 1, body: str = "body", **options: Any) -> list[Message]:
    return [send_email(f"n{n}", body, ["ada@example.org"], **options) for n in range(count)]


def states() -> dict[str, str]:
    return dict(Message.objects.order_by("pk").values_list("subject", "state"))


def drain_and_close() -> None:
    """Drain in a thread of one's own, and so on a connection of its own."""
    try:
        drain(engine=Worker({}))
    finally:
        connections.close_all()


def subjects(server: ScriptedServer) -> list[str]:
    found = [re.search(rb"^Subject: (\w+)", each.body, re.MULTILINE) for each in server.accepted]
    return [match[1].decode() for match in found if match]


@contextmanager
def certified(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ssl.SSLContext]:
    """Have a server's certificate trusted; yield the server's context."""
    bundle = tmp_path / "authority.pem"
    AUTHORITY.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("127.0.0.1").configure_cert(context)
    yield context


# ------------------------------------------------------------------------- the order of things


def test_a_begin_is_committed_with_the_record_before_it_and_before_its_body(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mail(5)
    steps: list[tuple[list[str], list[str], list[str]]] = []
    commit = Ledger.commit

    def note(self: Ledger, begins: Any, results: Any, **kwargs: Any) -> Any:
        named = [parcel.message.subject for parcel in begins]
        ended = [result.parcel.message.subject for result in results]
        steps.append((ended, named, subjects(server)))
        return commit(self, begins, results, **kwargs)

    monkeypatch.setattr(Ledger, "commit", note)
    monkeypatch.setattr(smtp, "LINGER_S", 0.5)  # replies come in several pieces
    with ONE_CONNECTION, ScriptedServer(extensions=ESMTP) as server, delivering_to(server):
        assert drain(engine=Worker({})) == {"sent": 5}
    order = [f"n{n}" for n in range(5)]
    assert [step[0] for step in steps] == [[], *([name] for name in order)]
    assert [step[1] for step in steps] == [*([name] for name in order), []]
    for step, (_, _, arrived) in enumerate(steps):
        assert arrived == order[:step], "no body before its begin"
    assert server.verbs == ["EHLO", *["MAIL", "RCPT", "DATA"] * 5, "QUIT"]


def test_a_mail_takes_one_round_trip() -> None:
    count = 20
    mail(count)
    with (
        ONE_CONNECTION,
        ScriptedServer(extensions=ESMTP) as server,
        delay_proxy(server, delay_s=0.01) as far,
        delivering_to(far),
    ):
        assert drain(engine=Worker({})) == {"sent": count}
        turns = far.turns
    # EHLO, the first envelope, and then each body with the next envelope behind it.
    assert turns == count + 2


def test_one_command_at_a_time_where_there_is_no_pipelining() -> None:
    mail(5)
    with (
        ONE_CONNECTION,
        ScriptedServer(extensions=PLAIN) as server,
        delay_proxy(server, delay_s=0.0) as far,
        delivering_to(far),
    ):
        assert drain(engine=Worker({})) == {"sent": 5}
        turns = far.turns
    assert turns == 1 + 4 * 5
    assert server.verbs == ["EHLO", *["MAIL", "RCPT", "DATA"] * 5, "QUIT"]


# ---------------------------------------------------------------------- faults in the pipeline


def test_a_server_that_closes_with_an_envelope_in_flight_charges_the_first_alone() -> None:
    mail(3, in_doubt="hold")
    with (
        ONE_CONNECTION,
        ScriptedServer({Step.DOT: [HangUp()]}, extensions=ESMTP) as server,
        delivering_to(server),
    ):
        assert drain(engine=Worker({})) == {"in_doubt": 1, "sent": 2}
    assert states() == {"n0": "in_doubt", "n1": "sent", "n2": "sent"}
    assert server.connections == 2
    assert set(Message.objects.values_list("attempts", flat=True)) == {1}


def test_a_server_that_closes_after_every_mail_gets_them_all_uncharged() -> None:
    mail(4)
    bye = Say("250 2.0.0 Queued", hang_up=True)
    with (
        ONE_CONNECTION,
        ScriptedServer({Step.DOT: bye}, extensions=ESMTP) as server,
        delivering_to(server),
    ):
        assert drain(engine=Worker({})) == {"sent": 4}
    assert server.connections == 4
    assert set(Message.objects.values_list("attempts", flat=True)) == {1}


def test_a_refused_body_and_the_envelope_behind_it() -> None:
    mail(3)
    with (
        ONE_CONNECTION,
        ScriptedServer({Step.DOT: [Say("554 5.6.0 No")]}, extensions=ESMTP) as server,
        delivering_to(server),
    ):
        assert drain(engine=Worker({})) == {"failed": 1, "sent": 2}
    assert server.connections == 1
    assert "RSET" not in server.verbs


def test_a_data_that_is_accepted_though_all_were_refused_delivers_nothing() -> None:
    send_email("bad", "b", ["bob@example.org", "eve@example.org"])
    mail(2)
    refused = {name: Say("550 5.1.1 No") for name in ("bob@example.org", "eve@example.org")}
    with (
        ONE_CONNECTION,
        ScriptedServer({Step.RCPT: refused}, extensions=ESMTP) as server,
        delivering_to(server),
    ):
        drain(engine=Worker({}))
    assert states() == {"bad": "failed", "n0": "sent", "n1": "sent"}
    assert [len(each.body) for each in server.envelopes if not each.recipients] == [0]
    assert server.connections == 1


def test_some_refused_in_the_middle() -> None:
    to = [f"u{n}@example.org" for n in range(250)]
    send_email("many", "b", to)
    mail(1)
    script = {
        "u7@example.org": Say("451 4.3.0 Later"),
        "u150@example.org": Say("550 5.1.1 Nobody"),
    }
    with (
        ONE_CONNECTION,
        ScriptedServer({Step.RCPT: script}, extensions=ESMTP) as server,
        delivering_to(server),
    ):
        drain(engine=Worker({}))
    found = Message.objects.get(subject="many").recipients.exclude(state="sent")
    assert dict(found.values_list("address", "state")) == {
        "u7@example.org": "pending",
        "u150@example.org": "failed",
    }
    assert len(server.accepted[0].recipients) == 248


def test_a_mail_cancelled_after_its_envelope_is_not_sent_nor_an_empty_one() -> None:
    first, second = mail(2)
    slow = {Step.DATA: [Say("354 Go on", over_s=0.5)]}
    with ONE_CONNECTION, ScriptedServer(slow, extensions=ESMTP) as server, delivering_to(server):
        thread = threading.Thread(target=drain_and_close)
        thread.start()
        wait_for(lambda: "DATA" in server.verbs)
        cancel(first)
        thread.join(20)
        assert not thread.is_alive()
    assert states() == {"n0": "cancelled", "n1": "sent"}
    assert [each.ended for each in server.envelopes] == ["cut", "accepted"]
    assert server.envelopes[0].body == b""
    second.refresh_from_db()
    assert second.attempts == 1


def test_a_row_that_is_locked_for_a_moment_costs_no_connection() -> None:
    if not connection.features.has_select_for_update_skip_locked:
        assert connection.vendor == "sqlite"  # there a writer locks out the claim itself
        return
    locked = mail(1)[0]
    slow = {Step.DATA: [Say("354 Go on", over_s=0.5)]}
    with ScriptedServer(slow, extensions=ESMTP) as server, delivering_to(server):
        thread = threading.Thread(target=drain_and_close)
        thread.start()
        wait_for(lambda: "DATA" in server.verbs)
        with transaction.atomic():
            Message.objects.select_for_update().get(pk=locked.pk)
            time.sleep(0.6)
        thread.join(20)
        assert not thread.is_alive()
        assert server.connections == 1
    assert states() == {"n0": "sent"}


def test_a_row_that_stays_locked_costs_one_and_the_others_go() -> None:
    if not connection.features.has_select_for_update_skip_locked:
        assert connection.vendor == "sqlite"
        return
    locked = mail(1)[0]
    slow = {Step.DATA: [Say("354 Go on", over_s=0.5)]}
    with ScriptedServer(slow, extensions=ESMTP) as server, delivering_to(server):
        thread = threading.Thread(target=drain_and_close)
        thread.start()
        wait_for(lambda: "DATA" in server.verbs)
        with transaction.atomic():
            Message.objects.select_for_update().get(pk=locked.pk)
            time.sleep(3)
            assert server.accepted == []
        thread.join(20)
        assert not thread.is_alive()
        assert server.connections == 2
    assert states() == {"n0": "sent"}
    assert [each.ended for each in server.envelopes] == ["cut", "accepted"]


def test_who_stands_behind_a_slow_dot_goes_by_another_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(smtp, "SLOW_S", 0.2)
    mail(4)
    slow = {Step.DOT: [Say("250 2.0.0 Queued", over_s=2.0)]}
    with (
        override_settings(PILLARBOX={"CONNECTIONS": 2}),
        ScriptedServer(slow, extensions=ESMTP) as server,
        delivering_to(server),
    ):
        assert drain(engine=Worker({})) == {"sent": 4}
    order = sorted(server.accepted, key=lambda each: each.at)
    assert len(order) == 4
    assert order[-1].at - order[0].at < 1.5, "none waited for the slow reply"


def test_an_error_that_nobody_foresaw_ends_one_conversation_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mail(4)
    receive = Pipeline.receive
    faults = iter([ZeroDivisionError("what is this")])

    def fail(self: Pipeline, octets: bytes) -> Any:
        if octets and (fault := next(faults, None)) is not None:
            raise fault
        return receive(self, octets)

    monkeypatch.setattr(Pipeline, "receive", fail)
    with ONE_CONNECTION, ScriptedServer(extensions=ESMTP) as server, delivering_to(server):
        tally = drain(engine=Worker({}))
    assert tally["sent"] <= 3
    assert "broke for an unknown reason" in caplog.text
    assert set(states().values()) <= {"sent", "queued"}
    assert len(server.accepted) == tally["sent"]


def test_what_cannot_be_rendered_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    mail(3)
    render = EmailBackend.render

    def fail(self: EmailBackend, message: EmailMessage, recipients: Any = None) -> Any:
        if message.subject == "n1":
            raise ValueError("It cannot be.")
        return render(self, message, recipients)

    monkeypatch.setattr(EmailBackend, "render", fail)
    with ONE_CONNECTION, ScriptedServer(extensions=ESMTP) as server, delivering_to(server):
        drain(engine=Worker({}))
    assert subjects(server) == ["n0", "n2"]
    bad = Message.objects.get(subject="n1")
    assert (bad.state, bad.trail.get().stage) == (State.FAILED, "render")


def test_an_address_that_smtp_cannot_carry_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    mail(3)
    render = EmailBackend.render

    def readdress(self: EmailBackend, message: EmailMessage, recipients: Any = None) -> Any:
        envelope = render(self, message, recipients)
        odd = message.subject == "n1"
        addresses = (("ada@example.org", "\u00e4da@example.org"),) if odd else envelope.addresses
        return dataclasses.replace(envelope, addresses=addresses)

    monkeypatch.setattr(EmailBackend, "render", readdress)
    with ONE_CONNECTION, ScriptedServer(extensions=ESMTP) as server, delivering_to(server):
        drain(engine=Worker({}))
    assert states() == {"n0": "sent", "n1": "failed", "n2": "sent"}
    assert server.connections == 1


def test_smtputf8_goes_where_it_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    render = EmailBackend.render

    def with_utf8(self: EmailBackend, message: EmailMessage, recipients: Any = None) -> Any:
        return dataclasses.replace(
            render(self, message, recipients),
            addresses=(("ada@example.org", "\u00e4da@example.org"),),
            mail_options=("SMTPUTF8",),
        )

    monkeypatch.setattr(EmailBackend, "render", with_utf8)
    for extensions in (ESMTP, (*ESMTP, "SMTPUTF8")):
        mail(1)
        with ScriptedServer(extensions=extensions) as server, delivering_to(server):
            drain(engine=Worker({}))
    assert server.accepted[0].recipients == ["\u00e4da@example.org"]
    assert list(Message.objects.order_by("pk").values_list("state", flat=True)) == [
        "failed",
        "sent",
    ]


# -------------------------------------------------------------------------------- the sockets


@pytest.mark.parametrize("extensions", [ESMTP, PLAIN], ids=["pipelined", "one by one"])
@pytest.mark.parametrize("how", ["plain", "starttls", "implicit"])
def test_bodies_large_and_small_go_over_every_kind_of_socket(
    how: str, extensions: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mail(2)
    send_email("big", BIG, ["ada@example.org"])
    send_email("last", ".\n.dots\n..\n", ["ada@example.org"])
    with certified(monkeypatch, tmp_path) as tls:
        served: dict[str, Any] = {
            "plain": {},
            "starttls": {"tls": tls, "starttls": True, "auth": True},
            "implicit": {"tls": tls, "auth": True},
        }[how]
        options: dict[str, Any] = {
            "plain": {},
            "starttls": {"use_tls": True, "username": "shop", "password": "secret"},
            "implicit": {"use_ssl": True, "username": "shop", "password": "secret"},
        }[how]
        with (
            ONE_CONNECTION,
            ScriptedServer(extensions=extensions, **served) as server,
            delivering_to(server, **options),
        ):
            assert drain(engine=Worker({})) == {"sent": 4}
    assert subjects(server) == ["n0", "n1", "big", "last"]
    bodies = [each.body.partition(b"\r\n\r\n")[2] for each in server.accepted]
    assert bodies[2].count(b"A line of a body") == 100_000
    assert bodies[3].rstrip(b"\r\n") == b".\r\n.dots\r\n.."
    assert ("AUTH" in server.verbs) is (how != "plain")
    assert server.connections == 1


def test_a_server_that_reads_slowly_holds_up_no_other_connection() -> None:
    send_email("big", BIG, ["ada@example.org"])
    mail(6)
    with (
        override_settings(PILLARBOX={"CONNECTIONS": 2}),
        ScriptedServer(extensions=ESMTP, pause_s=0.02) as server,
        delivering_to(server),
    ):
        assert drain(engine=Worker({})) == {"sent": 7}
    last = max(server.accepted, key=lambda each: each.at)
    assert len(last.body) > 1_000_000


def test_the_fence_is_asked_before_each_block_of_a_body() -> None:
    send_email("big", BIG, ["ada@example.org"])
    asked: list[bool] = []

    def may_write() -> bool:
        asked.append(len(asked) < 3)
        return asked[-1]

    with ScriptedServer(extensions=ESMTP) as server, delivering_to(server):
        sender = SMTPSender(1)
        parcel = parcel_of(Message.objects.get())
        parcel.may_write = may_write
        (result,) = carried(sender, [parcel])
        sender.close()
        assert isinstance(result.outcome, Retry)
        assert result.outcome.stage == "body"
        assert asked == [True, True, True, False]
        wait_for(lambda: server.envelopes)
        assert server.accepted == []


def parcel_of(message: Message) -> Parcel:
    parcel = parcels.address(message)
    parcel.mailer = "default"
    return parcel


def carried(sender: Any, offered: list[Parcel]) -> list[Result]:
    """Answer a sender as a drain does, until every parcel has its result."""
    sender.offer(offered)
    results: list[Result] = []
    until = time.monotonic() + 20
    while len(results) < len(offered) and time.monotonic() < until:
        word: Word
        for word in sender.collect(0.05):
            if isinstance(word, Result):
                results.append(word)
            elif isinstance(word, Wanted):
                assert parcels.fill([word.parcel], "default") == {}
            else:
                assert isinstance(word, Begin)
                sender.permit(word.parcel, allowed=True)
    return results


def test_a_body_and_the_envelope_behind_it_leave_in_one_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    count = 10
    writes: list[int] = []
    write = Wire.write

    def note(self: Wire, block: bytes | memoryview) -> int:
        writes.append(len(block))
        return write(self, block)

    monkeypatch.setattr(Wire, "write", note)
    with ScriptedServer(extensions=ESMTP) as server, delivering_to(server):
        sender = MixedSender(1)
        try:
            results = carried(sender, [parcel_of(message) for message in mail(count)])
        finally:
            sender.close()
    assert [type(result.outcome) for result in results] == [Sent] * count
    assert len(writes) == 1 + count  # the first envelope, and then a body with the next one


# ------------------------------------------------------------------------------- smtp-sink


@pytest.mark.service("smtp-sink")
@pytest.mark.parametrize("size", [1, 4])
def test_postfix_s_sink_takes_all_of_them(size: int) -> None:
    assert SMTP_SINK is not None
    mail(200)
    port = free_port()
    command = [SMTP_SINK, "-u", "nobody", f"127.0.0.1:{port}", "100"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as sink:
        try:
            wait_for_port(port)
            with (
                override_settings(PILLARBOX={"CONNECTIONS": size}),
                delivering_by(SMTP, host="127.0.0.1", port=port, timeout=20),
            ):
                assert drain(engine=Worker({})) == {"sent": 200}
        finally:
            sink.terminate()
            sink.wait(10)
    assert set(Message.objects.values_list("state", "attempts")) == {("sent", 1)}


# ------------------------------------------------------------------------------- both ways


class Signing(EmailBackend):
    """Has a way of its own with every message."""

    def _send(self, email_message: Any) -> bool:
        return bool(cast("Any", super())._send(email_message))


class Elsewhere(EmailBackend):
    """Only its options are its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)


def test_a_subclass_with_a_way_of_its_own_goes_by_the_threads() -> None:
    server = {"host": "127.0.0.1", "port": 25}
    locmem = "django.core.mail.backends.locmem.EmailBackend"
    for path, expected in (
        (SMTP, True),
        (f"{__name__}.Elsewhere", True),
        (f"{__name__}.Signing", False),
        ("django.core.mail.backends.smtp.EmailBackend", False),
    ):
        with delivering_by(path, **server):
            assert goes_by_loop("default") is expected, path
    with delivering_by(locmem):
        assert goes_by_loop("default") is False
    with delivering_by("nowhere.EmailBackend"):
        assert goes_by_loop("default") is False


@override_settings(
    PILLARBOX={
        "CONNECTIONS": 4,
        "STREAMS": {"default": {"mailers": ["smtp"]}, "bulk": {"mailers": ["other"]}},
    }
)
def test_one_drain_serves_both_ways_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(extensions=ESMTP) as server:
        options = {"host": server.host, "port": server.port}
        paths = {"smtp": SMTP, "other": f"{__name__}.Signing"}
        monkeypatch.setattr(
            routes, "override", lambda alias: compat.build_backend(alias, paths[alias], options)
        )
        mail(20)
        mail(20, stream="bulk")
        assert drain(engine=Worker({})) == {"sent": 40}
        pool.close()
    assert server.connections <= 6
    assert len(server.accepted) == 40


def test_an_idle_connection_is_given_up_where_its_server_has_closed_it() -> None:
    with ScriptedServer(extensions=ESMTP) as server, delivering_to(server):
        sender = MixedSender(1)
        for _ in range(2):
            mail(1)
            parcel = parcel_of(Message.objects.latest("pk"))
            (result,) = carried(sender, [parcel])
            assert isinstance(result.outcome, Sent)
            server.hang_up()
        sender.close()
    assert server.connections == 2


def test_what_was_being_opened_when_the_settings_changed_is_not_kept() -> None:
    with ScriptedServer() as server, delivering_to(server):
        before = pool.take("default")
        pool.close()  # what a changed setting does
        pool.give_back(before)
        assert before.backend.connection is None  # type: ignore[attr-defined]
        after = pool.take("default")
        assert after is not before
        pool.give_back(after)
        assert pool.take("default") is after
        after.close()
