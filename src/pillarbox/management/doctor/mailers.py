"""Examines every mailer: connects, encrypts, logs in and says NOOP; it sends nothing."""

from __future__ import annotations

import smtplib
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.mail.backends.base import BaseEmailBackend
from django.core.mail.backends.smtp import EmailBackend as SMTPBackend
from django.db import router

from pillarbox import compat
from pillarbox.conf import get_settings
from pillarbox.console import status
from pillarbox.delivery import routes
from pillarbox.exceptions import MailerNotFound
from pillarbox.management.doctor.findings import Clock, Finding, bad, caution, good, reason
from pillarbox.management.terminal import duration
from pillarbox.models import Circuit

NOWHERE = frozenset(
    f"django.core.mail.backends.{n}" for n in ("console", "dummy", "filebased", "locmem")
)

PATIENCE_S = 10
"""For each step, where the mailer sets no timeout."""


def examine() -> Iterator[Finding]:
    """Say which mailer carries which stream, then examine each."""
    aliases = set(routes.aliases())
    for name, stream in get_settings().streams.items():
        try:
            mailers = routes.mailers_for(name)
        except ImproperlyConfigured as error:
            text, _, remedy = str(error).partition(". ")
            yield bad("streams", text, remedy)
        else:
            aliases.update(mailers)
            first, *others = mailers
            instead = f", else by {', '.join(others)}" if others else ""
            pace = f", at most {stream.rate}" if stream.rate else ""
            yield good("streams", f'"{name}" is delivered by the mailer "{first}"{instead}{pace}')
    for alias in sorted(aliases):
        yield from _examine(alias)


def examine_circuits() -> Iterator[Finding]:
    """Say which mailers carry nothing, by what the workers found or an operator said."""
    for mailer in status.mailers(router.db_for_write(Circuit)):
        topic = f"mailer {mailer.alias}"
        if mailer.state == "paused":
            remedy = f"To end that: `manage.py pillarbox mailers --resume {mailer.alias}`."
            yield caution(topic, "It is paused: nothing goes by it.", remedy)
        elif not mailer.carries:
            when = "now" if not mailer.open_s else f"in {duration(mailer.open_s)}"
            text = f"It is down for the workers ({mailer.reason}); a worker tries it {when}."
            yield caution(topic, text, "Mend what it says; it is used again by itself.")


def _examine(alias: str) -> Iterator[Finding]:
    topic = f"mailer {alias}"
    try:
        backend = routes.build(alias)
    except MailerNotFound as error:
        yield bad(topic, str(error), "Define it, or name another.")
        return
    except Exception as error:  # noqa: BLE001 - any backend, any fault
        yield bad(topic, f"It cannot be made: {reason(error)}", "Correct its settings.")
        return
    clock = Clock()
    if isinstance(backend, SMTPBackend):
        _speak_up(backend)
        _time_steps(backend, clock)
    with _closing(backend):
        try:
            with clock.lap("open"):
                backend.open()
        except Exception as error:  # noqa: BLE001 - any backend, any fault
            took_s = clock.laps["open"]
            yield bad(topic, f"{_place(backend)}: {reason(error)}", _remedy(error), took_s)
        else:
            yield from _opened(topic, backend, clock)


@contextmanager
def _closing(backend: BaseEmailBackend) -> Iterator[None]:
    """Close the backend afterwards, a half-open connection of its own too."""
    try:
        yield
    finally:
        with suppress(OSError):  # the server's farewell tells nothing new
            backend.close()


def _place(backend: BaseEmailBackend) -> str:
    """Return where a backend sends to: host and port, or its class."""
    if isinstance(backend, SMTPBackend):
        return f"{backend.host}:{backend.port}"
    return f"{type(backend).__module__}.{type(backend).__name__}"


def _opened(topic: str, backend: BaseEmailBackend, clock: Clock) -> Iterator[Finding]:
    place = _place(backend)
    smtp = getattr(backend, "connection", None)
    if isinstance(backend, SMTPBackend) and isinstance(smtp, smtplib.SMTP):
        yield good(topic, f"{place} answers", clock.laps.get("connect", clock.laps["open"]))
        yield _encryption(topic, backend, smtp, clock)
        yield _login(topic, backend, clock)
        yield _noop(topic, smtp, clock)
    elif type(backend).__module__ in NOWHERE:
        yield caution(topic, f"{place} delivers to nobody.", "In production, choose another.")
    else:
        text = f"{place} opens; more than that only a mail can tell (--send)"
        yield good(topic, text, clock.laps["open"])


def _encryption(topic: str, backend: SMTPBackend, smtp: smtplib.SMTP, clock: Clock) -> Finding:
    sock: Any = smtp.sock
    if isinstance(sock, ssl.SSLSocket):
        way = "STARTTLS" if backend.use_tls else "TLS"
        return good(topic, f"{way}: {sock.version()}", clock.laps.get("starttls"))
    smtp.ehlo_or_helo_if_needed()
    if smtp.has_extn("starttls"):
        where = '"use_tls": True in its OPTIONS' if compat.uses_mailers() else "EMAIL_USE_TLS"
        return caution(topic, "Not encrypted, although it offers STARTTLS.", f"Set {where}.")
    if _is_local(sock):
        return good(topic, "Not encrypted; it is on this host")
    return caution(topic, "Not encrypted.", "Use a port with TLS: 587, or 465 with use_ssl.")


def _is_local(sock: socket.socket) -> bool:
    peer = sock.getpeername()
    return not isinstance(peer, tuple) or peer[0].startswith("127.") or peer[0] == "::1"


def _login(topic: str, backend: SMTPBackend, clock: Clock) -> Finding:
    if backend.username and backend.password:
        return good(topic, f"Logged in as {backend.username}", clock.laps.get("login"))
    return good(topic, "No login, since no username is set")


def _noop(topic: str, smtp: smtplib.SMTP, clock: Clock) -> Finding:
    try:
        with clock.lap("noop"):
            code, reply = smtp.noop()
    except (smtplib.SMTPException, OSError) as error:
        return bad(topic, f"NOOP: {reason(error)}", "The server hangs up at once: ask its log.")
    text = f"NOOP: {code} {reply.decode(errors='replace')}"
    if code != 250:
        return bad(topic, text, "The server is not willing: ask its log.", clock.laps["noop"])
    return good(topic, text, clock.laps["noop"])


def _remedy(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPAuthenticationError):
        return "Correct username and password."
    if isinstance(error, ssl.SSLError):
        return "use_tls is for port 587, use_ssl for 465; the certificate must be for this host."
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return "The server does not offer this here: correct the port, use_tls or username."
    if isinstance(error, OSError):
        return (
            "Correct host and port; look whether the server runs and a firewall lets you through."
        )
    return "Correct its settings."


def _speak_up(backend: SMTPBackend) -> None:
    """Have a backend that would be silent or wait for minutes say what is wrong, and soon."""
    backend.fail_silently = False
    if backend.timeout is None:
        backend.timeout = PATIENCE_S


def _time_steps(backend: SMTPBackend, clock: Clock) -> None:
    """Have the backend's own ``open`` time its steps, whichever class of connection it uses."""
    plain: Any = backend.connection_class

    class Timed(plain):  # type: ignore[misc]
        def connect(self, *args: Any, **kwargs: Any) -> Any:
            with clock.lap("connect"):
                return super().connect(*args, **kwargs)

        def starttls(self, *args: Any, **kwargs: Any) -> Any:
            with clock.lap("starttls"):
                return super().starttls(*args, **kwargs)

        def login(self, *args: Any, **kwargs: Any) -> Any:
            with clock.lap("login"):
                return super().login(*args, **kwargs)

    # `connection_class` is a property, which an instance cannot override.
    kind = type(backend)
    backend.__class__ = type(kind.__name__, (kind,), {"connection_class": Timed})
