"""A sloppy SMTP server, which takes many things for the end of a message; for SMTP smuggling.

    with SloppyServer() as server:
        …  # send to server.host, server.port
    assert len(server.mails) == 1

It keeps every octet of what followed DATA. Whoever can make it see two mails where the sender sent
one has smuggled the second (RFC 5321 2.3.8 and 4.1.1.4 demand CRLF.CRLF alone). One thread a
connection, on loopback.
"""

from __future__ import annotations

import itertools
import re
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType

BREAKS = (b"\r\n", b"\n", b"\r")
ENDS = tuple(b"%b.%b" % pair for pair in itertools.product(BREAKS, repeat=2))
"""What some server or other takes for the end of a message: every mixture of line ends."""
_END = re.compile(rb"(?:\r\n|\n|\r)\x00*\.\x00*(?:\r\n|\n|\r)")
"""The same, found where NULs are dropped, too; at the start of the data a dot alone is enough."""


@dataclass
class Mail:
    """One message as this server understood it."""

    commands: list[bytes] = field(default_factory=list)
    data: bytes = b""
    """What came before the end, dots not undone."""


class SloppyServer:
    """The server; it listens from the start and until it is closed. It accepts everything.

    ``extensions`` are announced; ``strict`` makes CRLF.CRLF the only end.
    """

    host = "127.0.0.1"

    def __init__(self, *extensions: str, strict: bool = False) -> None:
        self.extensions = extensions
        self.end = re.compile(rb"\r\n\.\r\n") if strict else _END
        self.mails: list[Mail] = []
        self.unknown: list[bytes] = []
        """Lines that are no command: what was meant as a message and read as a conversation."""
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server((self.host, 0))
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> SloppyServer:
        self._start(self._listen)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.finish()

    def finish(self) -> None:
        """Stop listening, and wait until every connection has been heard to its end."""
        with suppress(OSError):  # closed before
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(timeout=10)

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _listen(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.settimeout(10)
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                _Talk(self, client).run()
            except OSError:
                return


class _Talk:
    """One connection."""

    def __init__(self, server: SloppyServer, client: socket.socket) -> None:
        self.server = server
        self.client = client
        self.unread = b""
        self.mail = Mail()

    def run(self) -> None:
        self._say("220 sloppy.example.org ESMTP")
        while (line := self._line()) is not None:
            verb = line[:4].upper()
            if verb == b"DATA":
                self._take_data()
            elif verb == b"EHLO":
                lines = ("sloppy.example.org", *self.server.extensions)
                self._say(*(f"250-{one}" for one in lines[:-1]), f"250 {lines[-1]}")
            elif verb in {b"HELO", b"MAIL", b"RCPT", b"RSET", b"NOOP"}:
                self.mail.commands.append(line)
                self._say("250 2.0.0 Ok")
            elif verb == b"QUIT":
                self._say("221 2.0.0 Bye")
                return
            else:
                self.server.unknown.append(line)
                self._say("500 5.5.2 What?")

    def _take_data(self) -> None:
        self._say("354 Go on")
        self.unread = b"\r\n" + self.unread
        while (found := self.server.end.search(self.unread)) is None:
            if not self._receive():
                return
        self.mail.data = self.unread[2 : found.start()]
        self.unread = self.unread[found.end() :]
        self.server.mails.append(self.mail)
        self.mail = Mail()
        self._say("250 2.0.0 Queued")

    def _line(self) -> bytes | None:
        while (found := re.search(rb"\r\n|\n|\r", self.unread)) is None:
            if not self._receive():
                return None
        line, self.unread = self.unread[: found.start()], self.unread[found.end() :]
        return line

    def _receive(self) -> bool:
        received = self.client.recv(65536)
        self.unread += received
        return bool(received)

    def _say(self, *lines: str) -> None:
        self.client.sendall("".join(f"{line}\r\n" for line in lines).encode())
