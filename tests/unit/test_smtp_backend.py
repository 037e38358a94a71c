"""`pillarbox.backends.smtp.EmailBackend` against a server that misbehaves on demand."""

from __future__ import annotations

import os
import smtplib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.mime.text import MIMEText
from typing import Any

import pytest
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.core.mail.backends import smtp as django_smtp
from django.core.mail.backends.smtp import EmailBackend as DjangoEmailBackend
from hypothesis import given
from hypothesis import strategies as st

from pillarbox import addresses, mime
from pillarbox.backends.smtp import EmailBackend
from pillarbox.compat import MODERN_MESSAGES
from pillarbox.delivery import conversation, outcomes
from pillarbox.delivery.outcomes import (
    Fail,
    InDoubt,
    MailerDown,
    Outcome,
    PartlySent,
    Reply,
    Retry,
    Sent,
    Stage,
)
from tests.support.rendered import meaning
from tests.support.scripted_smtp import Hang, HangUp, Say, ScriptedServer, Step

ANN, BOB, EVE = "ann@example.org", "bob@example.org", "eve@example.org"


def mail(*to: str, **fields: Any) -> EmailMessage:
    return EmailMessage("Subject", "Body\n", "shop@example.org", to or (ANN,), **fields)


def backend_for(server: ScriptedServer, kind: type = EmailBackend, **options: Any) -> Any:
    return kind(alias="test", host=server.host, port=server.port, **{"timeout": 5, **options})


@contextmanager
def connected(script: dict[Step, Any] | None = None, **options: Any) -> Iterator[Any]:
    """Yield a server and a backend that has connected to it."""
    kinds = {name: options.pop(name) for name in ("extensions",) if name in options}
    with ScriptedServer(script, **kinds) as server:
        backend = backend_for(server, **options)
        backend.connect()
        try:
            yield server, backend
        finally:
            backend.close()


def outcome_of(script: dict[Step, Any], *to: str, **options: Any) -> Outcome:
    with connected(script, **options) as (_, backend):
        return backend.deliver(mail(*to))


# --------------------------------------------------------------------------------------- sent


def test_a_mail_that_everybody_accepts_is_sent() -> None:
    with connected() as (server, backend):
        outcome = backend.deliver(mail(ANN, f"Bob <{BOB}>", bcc=[EVE]))
        assert type(outcome) is Sent
        assert outcome.stage is Stage.DOT
        assert outcome.reply == Reply(250, "2.0.0", "Queued")
        assert outcome.recipients == dict.fromkeys(
            (ANN, BOB, EVE), Reply(250, "2.1.5", "Recipient ok")
        )
        assert backend.is_usable
    (envelope,) = server.accepted
    assert envelope.sender == "shop@example.org"
    assert envelope.recipients == [ANN, BOB, EVE]
    assert b"Subject: Subject\r\n" in envelope.body
    assert EVE.encode() not in envelope.body


def test_many_mails_go_over_one_connection() -> None:
    with connected() as (server, backend):
        for _ in range(20):
            assert type(backend.deliver(mail())) is Sent
    assert server.connections == 1
    assert len(server.accepted) == 20
    assert server.verbs.count("EHLO") == 1
    assert "RSET" not in server.verbs


def test_only_the_given_recipients_are_served() -> None:
    with connected() as (server, backend):
        outcome = backend.deliver(mail(ANN, BOB, cc=[EVE]), [BOB])
    assert list(outcome.recipients) == [BOB]
    assert server.accepted[0].recipients == [BOB]
    assert b"To: ann@example.org, bob@example.org" in server.accepted[0].body


def test_recipients_are_known_by_their_bare_address_in_lower_case() -> None:
    with connected() as (server, backend):
        outcome = backend.deliver(mail('"Müller, Ann" <Ann.Mueller@EXÄMPLE.org>'))
    assert list(outcome.recipients) == ["ann.mueller@exämple.org"]
    assert server.accepted[0].recipients[0].isascii()


def test_251_and_other_positive_replies_are_accepted() -> None:
    script = {
        Step.RCPT: Say("251 2.1.5 Will forward"),
        Step.DOT: Say("252 2.0.0 Will see"),
    }
    assert type(outcome_of(script)) is Sent


def test_a_server_without_extensions_is_served() -> None:
    with connected({Step.EHLO: Say("502 5.5.1 What?")}) as (server, backend):
        assert type(backend.deliver(mail())) is Sent
    assert server.verbs[:3] == ["EHLO", "HELO", "MAIL"]
    assert server.commands[2].lower() == "mail from:<shop@example.org>"


def corpus() -> list[EmailMessage]:
    html = EmailMultiAlternatives("Grüße", "Ünï", "shop@example.org", [ANN])
    html.attach_alternative("<p>Ünï</p>" + "x" * 2000, "text/html")
    html.attach("report.pdf", os.urandom(3000), "application/pdf")
    dots = mail()
    dots.body = ".\n..\n.leading\n\n.\nlast line without an end"
    long = mail()
    long.body = "\n".join("." * (i % 70) for i in range(5000))
    returns = mail()
    returns.body = "carriage\rreturn\r\nand\nfeed\n\n\n"
    empty = mail()
    empty.body = ""
    messages = [mail(), html, dots, long, returns, empty, mail(f"Jürgen <{BOB}>", cc=[EVE])]
    for message in messages:
        message.extra_headers = {"Date": "Tue, 24 Nov 2026 12:00:00 -0000", "Message-ID": "<1@x>"}
    return messages


def test_the_same_goes_over_the_wire_as_with_djangos_backend() -> None:
    messages = corpus()
    with ScriptedServer() as ours, ScriptedServer() as django:
        backend = backend_for(ours)
        backend.connect()
        assert [type(backend.deliver(message)) for message in messages] == [Sent] * len(messages)
        backend.close()
        reference = backend_for(django, DjangoEmailBackend)
        assert reference.send_messages(messages) == len(messages)
        assert ours.verbs == django.verbs
    for mine, theirs in zip(ours.accepted, django.accepted, strict=True):
        assert (mine.sender, mine.recipients) == (theirs.sender, theirs.recipients)
        assert meaning(mine.body) == meaning(theirs.body)


def test_what_the_composer_leaves_goes_as_django_writes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The boundaries of multipart messages are random; nothing else is.
    monkeypatch.setattr("email.generator.Generator._make_boundary", lambda *_: "=boundary=")
    monkeypatch.setattr(mime, "compose", lambda *_, **__: None)
    messages = corpus()
    left = mime.left.total()
    with ScriptedServer() as ours, ScriptedServer() as django:
        backend = backend_for(ours)
        backend.connect()
        assert [type(backend.deliver(message)) for message in messages] == [Sent] * len(messages)
        backend.close()
        assert backend_for(django, DjangoEmailBackend).send_messages(messages) == len(messages)
        assert ours.commands == django.commands
    assert [one.body for one in ours.accepted] == [one.body for one in django.accepted]
    assert mime.left.total() == left + len(messages)


@pytest.mark.parametrize("extensions", [(), ("8BITMIME",)], ids=["7bit", "8bit"])
def test_eight_bits_go_where_they_are_announced_and_nowhere_else(
    extensions: tuple[str, ...],
) -> None:
    message = mail()
    message.body = "Grüße"
    message.extra_headers = {"Date": "Tue, 24 Nov 2026 12:00:00 -0000", "Message-ID": "<1@x>"}
    with ScriptedServer(extensions=extensions) as server:
        backend = backend_for(server)
        backend.connect()
        assert type(backend.deliver(message)) is Sent
        backend.close()
    (envelope,) = server.accepted
    assert envelope.body.isascii() is not bool(extensions)
    assert any("body=8BITMIME" in command for command in server.commands) is bool(extensions)


def test_a_subclass_that_signs_is_honoured() -> None:
    class Signing(EmailBackend):
        def _send(self, email_message: EmailMessage) -> bool:
            assert self.connection is not None
            self.connection.sendmail(
                "bounce@example.org",
                [f"{address}" for address in email_message.recipients()],
                "Signature: yes\n\nbody\rend",
                mail_options=["BODY=8BITMIME"],
            )
            return True

    with ScriptedServer() as server:
        backend = backend_for(server, Signing)
        backend.connect()
        assert type(backend.deliver(mail(ANN, BOB), [BOB])) is Sent
        backend.close()
    assert server.accepted[0].sender == "bounce@example.org"
    assert server.accepted[0].recipients == [BOB]
    assert server.accepted[0].body == b"Signature: yes\r\n\r\nbody\r\nend\r\n"
    assert "BODY=8BITMIME" in server.commands[1]


# -------------------------------------------------------------------------------- partly, refused


def test_one_refused_recipient_is_told_and_the_others_get_the_mail() -> None:
    script = {Step.RCPT: {BOB: Say("550 5.1.1 Nobody here"), EVE: Say("450 4.2.1 Later")}}
    with connected(script) as (server, backend):
        outcome = backend.deliver(mail(ANN, BOB, EVE))
        assert backend.is_usable
    assert type(outcome) is PartlySent
    assert outcome.recipients == {
        BOB: Reply(550, "5.1.1", "Nobody here"),
        EVE: Reply(450, "4.2.1", "Later"),
    }
    assert outcome.reply.code == 250
    assert server.accepted[0].recipients == [ANN]


def test_the_recipients_over_the_servers_limit_are_transient() -> None:
    script = {Step.RCPT: [None, Say("552 Too many recipients"), Say("452 4.5.3 Too many")]}
    outcome = outcome_of(script, ANN, BOB, EVE)
    assert type(outcome) is PartlySent
    assert {address: reply.code for address, reply in outcome.recipients.items()} == {
        BOB: 452,
        EVE: 452,
    }


def test_all_recipients_refused_ends_with_rset_and_without_data() -> None:
    script = {Step.RCPT: {ANN: Say("550 5.1.1 No"), BOB: Say("452 4.2.2 Full")}}
    with connected(script) as (server, backend):
        outcome = backend.deliver(mail(ANN, BOB))
        assert type(outcome) is Retry
        assert outcome.reply == Reply(452, "4.2.2", "Full")
        assert set(outcome.recipients) == {ANN, BOB}
        assert backend.is_usable
        assert type(backend.deliver(mail(EVE))) is Sent
    assert server.verbs[:6] == ["EHLO", "MAIL", "RCPT", "RCPT", "RSET", "MAIL"]


REFUSALS = [
    (Step.MAIL, "451 4.3.0 Later", Retry, Stage.MAIL),
    (Step.MAIL, "550 5.7.1 Not you", Fail, Stage.MAIL),
    (Step.MAIL, "530 5.7.0 Log in first", MailerDown, Stage.MAIL),
    (Step.RCPT, "450 4.2.1 Later", Retry, Stage.RCPT),
    (Step.RCPT, "550 5.1.1 No", Fail, Stage.RCPT),
    (Step.DATA, "451 4.3.0 Later", Retry, Stage.DATA),
    (Step.DATA, "554 5.5.1 No", Fail, Stage.DATA),
    (Step.DOT, "451 4.3.0 Later", Retry, Stage.DOT),
    (Step.DOT, "554 5.6.0 Spam", Fail, Stage.DOT),
]


@pytest.mark.parametrize(("step", "reply", "kind", "stage"), REFUSALS)
def test_a_refusal_keeps_the_connection(
    step: Step, reply: str, kind: type[Outcome], stage: Stage
) -> None:
    with connected({step: [Say(reply)]}) as (server, backend):
        outcome = backend.deliver(mail())
        assert type(outcome) is kind
        assert outcome.stage is stage
        assert f"{outcome.reply.code} {outcome.reply.enhanced_code} {outcome.reply.text}" == reply
        assert backend.is_usable
        assert type(backend.deliver(mail())) is Sent
    assert server.verbs.count("RSET") == 1


def test_a_refusal_after_a_partial_one_names_both() -> None:
    script = {Step.RCPT: {BOB: Say("550 5.1.1 No")}, Step.DATA: Say("554 5.6.0 Spam")}
    outcome = outcome_of(script, ANN, BOB)
    assert type(outcome) is Fail
    assert outcome.reply.code == 554
    assert outcome.recipients == {BOB: Reply(550, "5.1.1", "No")}


@pytest.mark.parametrize("reset", [Say("500 5.5.1 What?"), HangUp(), Hang()])
def test_a_server_that_does_not_reset_is_left(reset: Any) -> None:
    script = {Step.MAIL: Say("451 4.3.0 Later"), Step.RSET: reset}
    with connected(script, timeout=0.3) as (_, backend):
        assert type(backend.deliver(mail())) is Retry
        assert not backend.is_usable


CLOSINGS = [
    (Step.MAIL, MailerDown),
    (Step.RCPT, MailerDown),
    (Step.DATA, MailerDown),
    (Step.DOT, Retry),
]


@pytest.mark.parametrize(("step", "kind"), CLOSINGS)
@pytest.mark.parametrize("hang_up", [True, False])
def test_after_a_421_the_connection_is_left(step: Step, kind: type[Outcome], hang_up: bool) -> None:
    with connected({step: Say("421 4.3.2 Going down", hang_up=hang_up)}) as (_, backend):
        outcome = backend.deliver(mail())
        assert type(outcome) is kind
        assert outcome.reply == Reply(421, "4.3.2", "Going down")
        assert not backend.is_usable


# ---------------------------------------------------------------------- cut off, silence, garbage

CUTS = [
    (Step.MAIL, MailerDown, Stage.MAIL),
    (Step.RCPT, Retry, Stage.RCPT),
    (Step.DATA, Retry, Stage.DATA),
    (Step.DOT, InDoubt, Stage.DOT),
]


@pytest.mark.parametrize(("step", "kind", "stage"), CUTS)
@pytest.mark.parametrize(
    "misdeed", [HangUp(), Say("%&/( no SMTP"), Say("250" + "x" * 9000), Say("999 7.7.7 Odd")]
)
def test_a_conversation_cut_off_means_what_its_stage_says(
    step: Step, kind: type[Outcome], stage: Stage, misdeed: Any
) -> None:
    with connected({step: misdeed}) as (_, backend):
        outcome = backend.deliver(mail())
        assert type(outcome) is kind
        assert outcome.stage is stage
        assert outcome.reply.text
        assert not backend.is_usable


@pytest.mark.parametrize(("step", "kind", "stage"), CUTS[:3])
def test_a_time_out_means_what_its_stage_says(
    step: Step, kind: type[Outcome], stage: Stage
) -> None:
    with connected({step: Hang()}, timeout=0.2) as (_, backend):
        outcome = backend.deliver(mail())
        assert type(outcome) is kind
        assert outcome.stage is stage
        assert "timed out" in outcome.reply.text
        assert not backend.is_usable


def test_the_final_reply_may_take_longer_than_the_timeout() -> None:
    with connected({Step.DOT: Say("250 2.0.0 Queued", over_s=1.0)}, timeout=0.2) as (_, backend):
        assert type(backend.deliver(mail())) is Sent


def test_no_reply_to_the_dot_in_its_time_is_a_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(conversation.RFC_TIMEOUTS_S, Stage.DOT, 0.5)
    with connected({Step.DOT: Hang()}, timeout=0.2) as (server, backend):
        outcome = backend.deliver(mail())
        assert type(outcome) is InDoubt
        assert not backend.is_usable
    assert server.envelopes[0].ended == "cut"
    assert server.envelopes[0].body.endswith(b"Body\r\n")


def test_a_slow_reply_is_waited_for() -> None:
    assert type(outcome_of({Step.RCPT: Say("250 2.1.5 Ok", over_s=0.3)})) is Sent


@pytest.mark.parametrize(
    ("misdeed", "kind"),
    [
        (HangUp(), Retry),
        (Say("552 5.3.4 Too big", hang_up=True), Fail),
        (Say("452 4.3.1 Disk full", hang_up=True), Retry),
        (Say("421 4.3.2 Going down", hang_up=True), Retry),
        (Say("no SMTP", hang_up=True), Retry),
        (Hang(), Retry),
    ],
)
def test_a_server_that_stops_reading_a_body_leaves_no_doubt(
    misdeed: Any, kind: type[Outcome]
) -> None:
    big = mail()
    big.body = "A line of a big body, so big that it does not fit into any buffer.\n" * 300_000
    with connected({Step.BODY: misdeed}, timeout=2) as (_, backend):
        outcome = backend.deliver(big)
        assert type(outcome) is kind
        assert outcome.stage is Stage.BODY
        assert not backend.is_usable


def test_a_server_that_speaks_in_the_middle_of_a_body_gets_no_dot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # It fits into the sockets' buffers, so that no write fails: only the look before the dot tells.
    message = mail()
    message.body = "A line of some length to fill the blocks.\n" * 4000
    heard = threading.Event()

    class Listening(ScriptedServer):
        def action(self, step: Step, argument: str = "") -> Any:
            if step is Step.BODY:
                threading.Timer(0.1, heard.set).start()
            return super().action(step, argument)

    has_spoken = conversation._has_spoken
    with Listening({Step.BODY: Say("552 5.3.4 Too big")}) as server:
        monkeypatch.setattr(
            conversation, "_has_spoken", lambda sock: heard.wait(5) and has_spoken(sock)
        )
        backend = backend_for(server)
        backend.connect()
        outcome = backend.deliver(message)
        backend.close()
    assert type(outcome) is Fail
    assert outcome.reply == Reply(552, "5.3.4", "Too big")
    assert outcome.stage is Stage.BODY
    assert server.accepted == []


def test_a_large_mail_arrives_whole() -> None:
    message = mail()
    message.attach("noise.bin", os.urandom(3_000_000), "application/octet-stream")
    with connected() as (server, backend):
        assert type(backend.deliver(message)) is Sent
        body = message.message().as_bytes()
    assert len(server.accepted[0].body) > 4_000_000
    assert abs(len(server.accepted[0].body.replace(b"\r\n", b"\n")) - len(body)) < 1000


def test_a_conversation_cut_by_another_thread_ends_in_an_outcome() -> None:
    with connected({Step.RCPT: Hang()}, timeout=30) as (_, backend):
        cut = threading.Timer(0.2, lambda: backend.connection.sock.shutdown(socket.SHUT_RDWR))
        cut.start()
        outcome = backend.deliver(mail())
        cut.join()
        assert type(outcome) is Retry
        assert not backend.is_usable


class Interrupted(BaseException):
    """As the one that ends a thread or a process."""


def test_a_conversation_that_is_interrupted_leaves_no_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*args: Any) -> None:
        raise Interrupted

    with connected() as (_, backend):
        monkeypatch.setattr(smtplib.SMTP, "rcpt", interrupt)
        with pytest.raises(Interrupted):
            backend.deliver(mail())
        assert not backend.is_usable


# -------------------------------------------------------------------------------------- content


def not_encodable() -> EmailMessage:
    message = mail()
    message.encoding = "klingon"
    message.body = "ü"
    return message


def from_nobody() -> EmailMessage:
    message = mail()
    message.from_email = "two@example.org, addresses@example.org"
    return message


@pytest.mark.parametrize(
    "message",
    [
        mail(headers={"X-Evil": "one\nBcc: eve@example.org"}),
        mail(bcc=["to\nevil@example.com"]),
        from_nobody(),
        not_encodable(),
    ],
)
def test_a_bad_content_fails_before_anything_is_written(message: EmailMessage) -> None:
    with connected() as (server, backend):
        outcome = backend.deliver(message)
        assert type(outcome) is Fail
        assert outcome.stage is Stage.RENDER
        assert outcome.reply.text
        assert server.verbs == ["EHLO"]
        assert backend.is_usable
        assert type(backend.deliver(mail())) is Sent


def test_a_mail_for_nobody_fails() -> None:
    with connected() as (server, backend):
        assert type(backend.deliver(mail(), [])) is Fail
        assert server.verbs == ["EHLO"]


def test_a_message_whose_rendering_raises_anything_fails_alone() -> None:
    class Broken(EmailMessage):
        def message(self, *args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("of the subclass")

    with connected() as (_, backend):
        outcome = backend.deliver(Broken("s", "b", "shop@example.org", [ANN]))
        assert type(outcome) is Fail
        assert "of the subclass" in outcome.reply.text
        assert type(backend.deliver(mail())) is Sent


@pytest.mark.parametrize("option", ["SMTPUTF8", "X=\u2603"])
def test_what_smtplib_will_not_write_fails_and_keeps_the_connection(option: str) -> None:
    class Wide(EmailBackend):
        def _send(self, email_message: EmailMessage) -> bool:
            options = [option] if email_message.subject == "wide" else []
            assert self.connection is not None
            self.connection.sendmail("shop@example.org", [ANN], b"\r\n", options)
            return True

    with ScriptedServer() as server:
        backend = backend_for(server, Wide)
        backend.connect()
        outcome = backend.deliver(EmailMessage("wide", "", None, [ANN]))
        assert type(outcome) is Fail
        assert type(backend.deliver(mail())) is Sent
        backend.close()


# -------------------------------------------------------------------------------- the connection


def test_without_a_connection_nothing_is_charged() -> None:
    with ScriptedServer() as server:
        backend = backend_for(server)
        assert not backend.is_usable
        outcome = backend.deliver(mail())
    assert type(outcome) is MailerDown
    assert outcome.stage is Stage.OPEN


def test_djangos_open_is_enough() -> None:
    with ScriptedServer() as server:
        backend = backend_for(server)
        backend.open()
        assert type(backend.deliver(mail())) is Sent
        backend.close()
    assert server.verbs == ["EHLO", "MAIL", "RCPT", "DATA", "QUIT"]


@pytest.mark.parametrize("step", [Step.BANNER, Step.EHLO])
@pytest.mark.parametrize("misdeed", [Say("554 Go away"), Say("garbage"), HangUp(), Hang()])
def test_a_server_that_does_not_greet_is_down(step: Step, misdeed: Any) -> None:
    script = {step: misdeed, Step.HELO: misdeed}
    with ScriptedServer(script) as server:
        backend = backend_for(server, timeout=0.3)
        with pytest.raises(OSError) as raised:  # noqa: PT011 - which one is smtplib's choice
            backend.connect()
        assert type(outcomes.classify(raised.value, stage=Stage.OPEN)) is MailerDown
        assert not backend.is_usable
        backend.close()


def test_a_server_that_does_not_listen_is_down() -> None:
    with ScriptedServer() as server:
        backend = backend_for(server)
    with pytest.raises(ConnectionRefusedError) as raised:
        backend.connect()
    assert type(outcomes.classify(raised.value, stage=Stage.OPEN)) is MailerDown


def test_connecting_is_never_silent() -> None:
    with ScriptedServer() as server:
        backend = backend_for(server, fail_silently=True)
    with pytest.raises(ConnectionRefusedError):
        backend.connect()
    assert backend.fail_silently is True


def test_delivering_is_never_silent() -> None:
    with connected({Step.DOT: Say("554 5.6.0 Spam")}, fail_silently=True) as (_, backend):
        assert type(backend.deliver(mail())) is Fail


def test_connecting_takes_thirty_seconds_at_most_where_no_timeout_is_set() -> None:
    with connected(timeout=None) as (_, backend):
        assert backend.timeout is None
        assert backend.connection.sock.gettimeout() == 30
        assert type(backend.deliver(mail())) is Sent
        # The farewell and a probe of an idle connection are bounded as well.
        assert backend.connection.sock.gettimeout() == 30


def test_the_rfcs_times_hold_where_no_timeout_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(conversation.RFC_TIMEOUTS_S, Stage.RCPT, 0.2)
    with connected({Step.RCPT: Hang()}, timeout=None) as (_, backend):
        started = time.monotonic()
        assert type(backend.deliver(mail())) is Retry
        assert time.monotonic() - started < 5


def test_a_broken_connection_is_replaced_by_the_next_connect() -> None:
    with connected({Step.MAIL: [HangUp()]}) as (server, backend):
        assert type(backend.deliver(mail())) is MailerDown
        backend.connect()
        assert backend.is_usable
        assert type(backend.deliver(mail())) is Sent
    assert server.connections == 2


def test_connecting_twice_is_connecting_once() -> None:
    with connected() as (server, backend):
        backend.connect()
        assert server.connections == 1


# ------------------------------------------------------------------------- as a Django backend


def test_as_a_django_backend_a_partial_refusal_counts_as_sent() -> None:
    with ScriptedServer({Step.RCPT: {BOB: Say("550 5.1.1 No")}}) as server:
        assert backend_for(server).send_messages([mail(ANN, BOB), mail(ANN)]) == 2
    assert server.verbs[-1] == "QUIT"


def test_as_a_django_backend_it_raises_what_django_raises() -> None:
    with ScriptedServer({Step.DOT: Say("554 5.6.0 Spam")}) as server:
        with pytest.raises(smtplib.SMTPDataError):
            backend_for(server).send_messages([mail()])
        assert backend_for(server, fail_silently=True).send_messages([mail()]) == 0


def test_attachments_of_either_kind_are_rendered(recwarn: pytest.WarningsRecorder) -> None:
    message = mail()
    if hasattr(DjangoEmailBackend, "prep_address"):  # from 6.0 on a MIMEBase is deprecated
        message.attach("note.txt", "text", "text/plain")
    else:
        message.attach(MIMEText("text"))
    with connected() as (server, backend):
        assert type(backend.deliver(message)) is Sent
    assert b"text" in server.accepted[0].body
    assert not recwarn.list


@pytest.mark.parametrize("answers", [[False], [True, False]], ids=["before DATA", "in the body"])
def test_a_body_is_written_no_further_once_it_may_not_be(answers: list[bool]) -> None:
    script = {Step.DOT: Say("250 2.0.0 Queued")}
    with connected(script) as (server, backend):
        allowed = iter(answers)
        backend.may_write = lambda: next(allowed, False)
        outcome = backend.deliver(mail())
        assert not backend.is_usable
    assert isinstance(outcome, Retry)
    assert server.accepted == []
    assert server.envelopes[0].ended == "cut"


def test_a_body_is_written_while_it_may_be() -> None:
    with connected() as (server, backend):
        backend.may_write = lambda: True
        assert isinstance(backend.deliver(mail()), Sent)
    assert len(server.accepted) == 1


def prepared_by_django(address: str) -> str:
    if not MODERN_MESSAGES:
        return str(vars(django_smtp)["sanitize_address"](address, "utf-8"))
    django: Any = DjangoEmailBackend
    return str(django.prep_address(None, address))


@given(address=st.from_regex(addresses.ADDR_SPEC, fullmatch=True))
def test_a_plain_address_is_prepared_as_django_does_it(address: str) -> None:
    assert prepared_by_django(address) == address


def test_any_other_address_is_left_to_django() -> None:
    mixed = [ANN, f"Bob <{BOB}>", "ann@bücher.example", EVE, "bob@bücher.example"]
    with ScriptedServer() as server:
        backend = backend_for(server)
        for served in (mixed, mixed[::-1], mixed[:1], mixed[1:2]):
            envelope = backend.render(mail(*served))
            assert envelope.addresses == tuple((one, prepared_by_django(one)) for one in served)
        # Some Pythons' parser falls over it before Django can say what is wrong.
        with pytest.raises((ValueError, IndexError)):
            backend.render(mail(ANN, "b@"))
