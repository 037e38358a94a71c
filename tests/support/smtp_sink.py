"""A real SMTP server on loopback that keeps what it is given: raw bytes and envelope."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

ACCEPTED = "250 2.0.0 kept"


@dataclass(frozen=True)
class Received:
    """One accepted message, as it came over the wire (dots unstuffed, CRLF kept)."""

    mail_from: str
    rcpt_tos: tuple[str, ...]
    data: bytes
    mail_options: tuple[str, ...] = ()


@dataclass
class Sink:
    """The server's side. ``sink.replies["a@example.org"] = "550 no"`` scripts a refusal.

    A reply for an address answers its RCPT, one for ``"DATA"`` the final dot. ``sink.room`` is how
    many recipients it takes in one transaction, and ``sink.full`` what it says to one more.
    """

    host: str
    port: int
    received: list[Received] = field(default_factory=list)
    replies: dict[str, str] = field(default_factory=dict)
    connections: int = 0
    room: int | None = None
    full: str = "452 4.5.3 Too many recipients"
    asked: int = 0
    """How many RCPTs came."""
    _arrival: threading.Condition = field(default_factory=threading.Condition, repr=False)

    def clear(self) -> None:
        """Forget what came and what was scripted."""
        with self._arrival:
            self.received.clear()
        self.replies.clear()

    def wait_for(self, count: int, *, timeout_s: float = 10) -> list[Received]:
        """Return what came once ``count`` are there. Raise TimeoutError if too few come."""
        with self._arrival:
            if not self._arrival.wait_for(lambda: len(self.received) >= count, timeout_s):
                raise TimeoutError(f"{len(self.received)} of {count} messages came")
            return list(self.received)

    async def handle_EHLO(
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, replies: list[str]
    ) -> list[str]:
        """Count the connection."""
        session.host_name = hostname
        self.connections += 1
        return replies

    async def handle_RCPT(
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        address: str,
        rcpt_options: list[str],
    ) -> str:
        """Accept the recipient, or answer as scripted."""
        self.asked += 1
        if self.room is not None and len(envelope.rcpt_tos) >= self.room:
            return self.full
        if address in self.replies:
            return self.replies[address]
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Keep the message, or answer as scripted."""
        if "DATA" in self.replies:
            return self.replies["DATA"]
        assert isinstance(envelope.content, bytes)
        came = Received(
            envelope.mail_from or "",
            tuple(envelope.rcpt_tos),
            envelope.content,
            tuple(envelope.mail_options),
        )
        with self._arrival:
            self.received.append(came)
            self._arrival.notify_all()
        return ACCEPTED


class _LenientSMTP(SMTP):
    # A direct send and a queued one are compared even where a line breaks the 998-octet rule.
    line_length_limit = 2**20


class _Controller(Controller):
    """Listens on a socket that is bound already, so that port 0 works."""

    def __init__(self, sink: Sink, listener: socket.socket, **options: Any) -> None:
        super().__init__(sink, hostname=sink.host, port=sink.port, **options)
        self._listener = listener

    def factory(self) -> SMTP:
        return _LenientSMTP(self.handler, **self.SMTP_kwargs)

    def _create_server(self) -> Any:
        return self.loop.create_server(self._factory_invoker, sock=self._listener)


@contextmanager
def smtp_sink(**options: Any) -> Iterator[Sink]:
    """Run the server in a thread on a free port of 127.0.0.1; ``options`` go to aiosmtpd's SMTP."""
    listener = socket.create_server(("127.0.0.1", 0))
    host, port = listener.getsockname()
    sink = Sink(host, port)
    options = {"server_hostname": "sink.localhost", "data_size_limit": 2**26, **options}
    controller = _Controller(sink, listener, **options)
    controller.start()
    try:
        # The controller has connected once, to see that it works.
        sink.received.clear()
        sink.connections = 0
        yield sink
    finally:
        controller.stop()
