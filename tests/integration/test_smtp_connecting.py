"""Connecting with TLS and a password: Django's own code does it; its faults are the mailer's."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from django.core.mail import EmailMessage

from pillarbox import compat
from pillarbox.backends.smtp import EmailBackend
from pillarbox.delivery import outcomes
from pillarbox.delivery.outcomes import MailerDown, Outcome, Sent, Stage
from tests.support.scripted_smtp import Hang, HangUp, Say, ScriptedServer, Step

AUTHORITY = trustme.CA()


@pytest.fixture
def tls() -> ssl.SSLContext:
    """Return a server's context with a certificate of our own authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process trust our authority, as a host does that has it installed."""
    bundle = tmp_path / "authority.pem"
    AUTHORITY.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))


@pytest.fixture
def opened() -> Iterator[list[EmailBackend]]:
    """Close every backend that `connect` made."""
    backends: list[EmailBackend] = []
    yield backends
    for backend in backends:
        backend.close()


def connect(
    server: ScriptedServer, opened: list[EmailBackend], **options: Any
) -> EmailBackend | Outcome:
    """Return a connected backend, made as the settings make it, or what its failure means."""
    path = "pillarbox.backends.smtp.EmailBackend"
    where = {"host": server.host, "port": server.port, "timeout": 2}
    backend = compat.build_backend("relay", path, where | options)
    assert isinstance(backend, EmailBackend)
    opened.append(backend)
    try:
        backend.connect()
    except Exception as error:  # noqa: BLE001 - whatever it is has an outcome
        return outcomes.classify(error, stage=Stage.OPEN)
    return backend


def deliver(backend: EmailBackend | Outcome) -> Outcome:
    assert isinstance(backend, EmailBackend)
    return backend.deliver(EmailMessage("Subject", "Body", "shop@example.org", ["ann@example.org"]))


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("starttls", [True, False])
def test_a_mail_goes_over_tls_with_a_password(
    tls: ssl.SSLContext, opened: list[EmailBackend], starttls: bool
) -> None:
    with ScriptedServer(tls=tls, starttls=starttls, auth=True) as server:
        options = {"use_tls" if starttls else "use_ssl": True, "username": "u", "password": "p"}
        backend = connect(server, opened, **options)
        assert [type(deliver(backend)) for _ in range(3)] == [Sent] * 3
        assert isinstance(backend, EmailBackend)
        assert backend.is_usable
        backend.close()
    assert len(server.accepted) == 3
    assert server.verbs.count("AUTH") == 1
    assert server.verbs.count("STARTTLS") == int(starttls)


@pytest.mark.usefixtures("trusted")
def test_a_large_mail_goes_over_tls_whole(tls: ssl.SSLContext, opened: list[EmailBackend]) -> None:
    with ScriptedServer(tls=tls) as server:
        backend = connect(server, opened, use_ssl=True)
        assert isinstance(backend, EmailBackend)
        message = EmailMessage("Subject", "Body\n" * 200_000, "a@example.org", ["b@example.org"])
        assert type(backend.deliver(message)) is Sent
    assert server.accepted[0].body.count(b"Body\r\n") == 200_000


def test_a_certificate_that_nobody_vouches_for_is_the_mailers_fault(
    tls: ssl.SSLContext, opened: list[EmailBackend]
) -> None:
    with ScriptedServer(tls=tls) as server:
        outcome = connect(server, opened, use_ssl=True)
    assert isinstance(outcome, MailerDown)
    assert "CERTIFICATE_VERIFY_FAILED" in outcome.reply.text


def test_a_server_without_tls_is_down_where_tls_is_asked_for(opened: list[EmailBackend]) -> None:
    with ScriptedServer() as server:
        assert isinstance(connect(server, opened, use_tls=True), MailerDown)
        assert isinstance(connect(server, opened, use_ssl=True), MailerDown)


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("step", [Step.STARTTLS, Step.AUTH])
@pytest.mark.parametrize("misdeed", [Say("454 4.7.0 Not now"), HangUp(), Hang()])
def test_tls_or_a_login_that_does_not_come_about_is_the_mailers_fault(
    tls: ssl.SSLContext, opened: list[EmailBackend], step: Step, misdeed: Any
) -> None:
    options = {"use_tls": True, "username": "u", "password": "p", "timeout": 0.5}
    with ScriptedServer({step: misdeed}, tls=tls, starttls=True, auth=True) as server:
        assert isinstance(connect(server, opened, **options), MailerDown)
    assert server.envelopes == []


def test_a_wrong_password_is_told_with_the_servers_reply(opened: list[EmailBackend]) -> None:
    with ScriptedServer({Step.AUTH: Say("535 5.7.8 Wrong password")}, auth=True) as server:
        outcome = connect(server, opened, username="u", password="p")
    assert isinstance(outcome, MailerDown)
    assert outcome.reply == outcomes.Reply(535, "5.7.8", "Wrong password")


def test_a_server_that_wants_a_login_is_the_mailers_fault(opened: list[EmailBackend]) -> None:
    with ScriptedServer({Step.MAIL: Say("530 5.7.0 Log in")}, auth=True) as server:
        assert isinstance(deliver(connect(server, opened)), MailerDown)


def test_an_unknown_host_is_the_mailers_fault(opened: list[EmailBackend]) -> None:
    with ScriptedServer() as server:
        assert isinstance(connect(server, opened, host="no-such-host.invalid"), MailerDown)


def test_an_option_that_django_does_not_know_is_met_as_django_meets_it() -> None:
    def build(path: str) -> str:
        try:
            compat.build_backend("relay", path, {"host": "mail.example.org", "colour": "red"})
        except Exception as error:  # noqa: BLE001 - InvalidMailer from 6.1 on
            return f"{type(error).__name__}: {error}"
        return "taken"

    met = build(compat.SMTP_BACKEND)
    assert build("pillarbox.backends.smtp.EmailBackend") == met
    assert ("InvalidMailer" in met) == compat.HAS_MAILERS
