"""What the tests of wakes share: the sink as a mailer, brokers that fail, and lost wakes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import django
import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session

from pillarbox import send_email
from pillarbox.engines import coalesce
from pillarbox.models import Message
from tests.support.processes import wait_for
from tests.support.smtp_sink import Sink

SMTP_BACKEND = "django.core.mail.backends.smtp.EmailBackend"


def queue(**options: Any) -> Message:
    """Queue one mail, and commit it unless the caller has a transaction open."""
    return send_email("Hello", "It gets there.", ["ada@example.org"], **options)


def smtp_settings(sink: Sink) -> dict[str, Any]:
    """Return the settings that make the sink the project's present backend."""
    if django.VERSION >= (6, 1):
        options = {"host": sink.host, "port": sink.port}
        return {"MAILERS": {"default": {"BACKEND": SMTP_BACKEND, "OPTIONS": options}}}
    return {"EMAIL_BACKEND": SMTP_BACKEND, "EMAIL_HOST": sink.host, "EMAIL_PORT": sink.port}


def answer_slowly(sink: Sink, seconds: float) -> None:
    """Let the sink keep the sender waiting after the final dot. Call before it is connected to."""
    answer = sink.handle_DATA

    async def slow(server: SMTP, session: Session, envelope: Envelope) -> str:
        reply = await answer(server, session, envelope)
        await asyncio.sleep(seconds)
        return reply

    sink.handle_DATA = slow  # type: ignore[method-assign]


def wait_for_state(message: Message, state: str, *, timeout_s: float = 20) -> Message:
    """Wait until the message's row has the state."""

    def row() -> Message | None:
        return Message.objects.filter(pk=message.pk, state=state).first()

    found: Message = wait_for(row, timeout_s=timeout_s)
    return found


def forget_wakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next commit wake the engine, however short ago an earlier test did."""
    monkeypatch.setattr(coalesce, "_woken_at", None)


def lose_wakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every wake of this process get lost on its way, as in a broker that is flushed."""
    monkeypatch.setattr(coalesce, "async_task", lambda _: None)


def closed_port() -> int:
    """Return a port of 127.0.0.1 where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextmanager
def silent_port() -> Iterator[int]:
    """Give a port of 127.0.0.1 that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]
