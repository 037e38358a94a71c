"""A small SMTP server that misbehaves on demand: any reply, silence or garbage, at any step.

    with ScriptedServer({Step.RCPT: {"bob@example.org": Say("550 5.1.1 Nobody here")}}) as server:
        …  # connect to server.host, server.port
    assert [envelope.ended for envelope in server.envelopes] == ["accepted"]

Real sockets on loopback, one thread a connection. ``script`` gives for a step one action for every
time, a list for the first, second, … time over the server's life (None, or past its end: the polite
default), or a mapping by address for MAIL and RCPT.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from tests.support.smtp_steps import BODY_CUT_BYTES, POLITE, Step, ehlo_reply

__all__ = [
    "Action",
    "Entry",
    "Envelope",
    "Hang",
    "HangUp",
    "Say",
    "ScriptedServer",
    "Step",
    "Trickle",
]


@dataclass(frozen=True)
class Say:
    """Reply with this text, as it stands but for the CRLF, and hang up afterwards if asked to.

    ``over_s`` spreads it: half of it at once, the rest after that long.
    """

    text: str
    over_s: float = 0.0
    hang_up: bool = False


@dataclass(frozen=True)
class HangUp:
    """Close the connection without a word."""


@dataclass(frozen=True)
class Hang:
    """Say nothing for ever, that is until the client gives up or the server closes."""


@dataclass(frozen=True)
class Trickle:
    """Begin a reply and never end it: another line of it after each so many seconds."""

    every_s: float


Action = Say | HangUp | Hang | Trickle
Entry = Action | Sequence[Action | None] | Mapping[str, Action]


@dataclass
class Envelope:
    """One mail transaction, from MAIL on."""

    sender: str
    connection: int
    recipients: list[str] = field(default_factory=list)
    """Those that were accepted."""
    body: bytes = b""
    """As it came over the wire, dots undone."""
    ended: str = "cut"
    """``accepted``, ``refused``, or ``cut``: no word of ours reached the client."""
    at: float = field(default_factory=time.monotonic)
    """When the dot was read, else when MAIL was; by time.monotonic()."""


class ScriptedServer:
    """The server; it listens from the start and until `close`.

    ``tls`` is a server's SSLContext: used from the first byte, or after STARTTLS with
    ``starttls=True``. ``auth=True`` announces AUTH PLAIN and takes any password. ``pause_s`` is how
    long it rests before each read.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        script: Mapping[Step, Entry] | None = None,
        *,
        extensions: Sequence[str] = ("SIZE 26214400", "8BITMIME", "ENHANCEDSTATUSCODES"),
        tls: ssl.SSLContext | None = None,
        starttls: bool = False,
        auth: bool = False,
        pause_s: float = 0.0,
    ) -> None:
        self.script = dict(script or {})
        self.extensions = extensions
        self.tls = tls
        self.starttls = starttls
        self.auth = auth
        self.pause_s = pause_s
        self.envelopes: list[Envelope] = []
        self.commands: list[str] = []
        self.connections = 0
        self.stopped = threading.Event()
        self._occurrences: Counter[Step] = Counter()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._clients: list[socket.socket] = []
        self._listener = socket.create_server((self.host, 0))
        self._listener.settimeout(0.05)
        self.port: int = self._listener.getsockname()[1]
        self._start(self._listen)

    @property
    def accepted(self) -> list[Envelope]:
        """The mails that the client was told are taken."""
        return [envelope for envelope in self.envelopes if envelope.ended == "accepted"]

    @property
    def verbs(self) -> list[str]:
        """The first word of every command, upper case."""
        return [command.split()[0].upper() for command in self.commands if command.strip()]

    def __enter__(self) -> ScriptedServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and let go of every client."""
        self.stopped.set()
        self._listener.close()
        for thread in self._threads:
            thread.join(timeout=10)

    def hang_up(self) -> None:
        """Let go of every client, and go on listening."""
        for client in self._clients:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def action(self, step: Step, argument: str = "") -> Action | None:
        """Return what the script wants now; counts the occurrence."""
        with self._lock:
            nth = self._occurrences[step]
            self._occurrences[step] += 1
        entry = self.script.get(step)
        if isinstance(entry, Mapping):
            return entry.get(argument)
        if isinstance(entry, Sequence):
            return entry[nth] if nth < len(entry) else None
        return entry

    def _start(self, target: Any, *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _listen(self) -> None:
        while not self.stopped.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            self.connections += 1
            self._clients.append(client)
            self._start(_Client(self, client, self.connections).serve)


class _Gone(Exception):
    """The connection is over."""


class _Client:
    """One client's connection."""

    def __init__(self, server: ScriptedServer, sock: socket.socket, number: int) -> None:
        self.server = server
        self.sock = sock
        self.number = number
        self.pending = bytearray()
        self.envelope: Envelope | None = None
        self.is_secure = False

    def serve(self) -> None:
        try:
            if self.server.tls is not None and not self.server.starttls:
                self._secure()
            self._reply(Step.BANNER)
            while True:
                self._command(self._line().decode("utf-8", "replace"))
        except (_Gone, OSError):
            pass
        finally:
            self.sock.close()

    def _command(self, command: str) -> None:
        self.server.commands.append(command)
        verb = command.split(" ")[0].split(":")[0].lower()
        handler = getattr(self, f"_on_{verb}", None)
        if handler is None:
            self._write("502 5.5.2 What?")
        else:
            handler(command)

    def _on_ehlo(self, command: str) -> None:
        offered = [*self.server.extensions]
        if self.server.starttls and not self.is_secure:
            offered.append("STARTTLS")
        if self.server.auth:
            offered.append("AUTH PLAIN")
        self._reply(Step.EHLO, polite=ehlo_reply(offered))

    def _on_helo(self, command: str) -> None:
        self._reply(Step.HELO)

    def _on_starttls(self, command: str) -> None:
        if self._reply(Step.STARTTLS):
            self._secure()

    def _secure(self) -> None:
        assert self.server.tls is not None
        try:
            self.sock = self.server.tls.wrap_socket(self.sock, server_side=True)
        except OSError as error:
            raise _Gone from error
        self.is_secure = True

    def _on_auth(self, command: str) -> None:
        self._reply(Step.AUTH)

    def _on_mail(self, command: str) -> None:
        sender = _address(command)
        if self._reply(Step.MAIL, sender):
            self.envelope = Envelope(sender, self.number)
            self.server.envelopes.append(self.envelope)

    def _on_rcpt(self, command: str) -> None:
        address = _address(command)
        if self._reply(Step.RCPT, address) and self.envelope is not None:
            self.envelope.recipients.append(address)

    def _on_data(self, command: str) -> None:
        if self.envelope is None:  # its MAIL was refused, and the client has pipelined
            self._write("503 5.5.1 MAIL first")
            return
        if not self._reply(Step.DATA):
            self.envelope.ended = "refused"
            return
        self._read_body(self.envelope)
        action = self._wanted(Step.DOT)
        if isinstance(action, Say):  # before the client can have read it, or a test would race us
            self.envelope.ended = "accepted" if _is_positive(action) else "refused"
        self._act(action)
        self.envelope = None

    def _read_body(self, envelope: Envelope) -> None:
        action = self.server.action(Step.BODY)
        if action is not None:
            self._read_some(BODY_CUT_BYTES)
            self._act(action)
        self.pending[:0] = b"\r\n"  # a message may be empty: a lone dot
        stuffed = self._until(b"\r\n.\r\n") + b"\r\n"
        envelope.body = stuffed.replace(b"\r\n.", b"\r\n")[2:]
        envelope.at = time.monotonic()

    def _on_rset(self, command: str) -> None:
        self.envelope = None
        self._reply(Step.RSET)

    def _on_noop(self, command: str) -> None:
        self._reply(Step.NOOP)

    def _on_quit(self, command: str) -> None:
        self._reply(Step.QUIT)
        raise _Gone

    def _reply(self, step: Step, argument: str = "", *, polite: str = "") -> bool:
        """Do what the script wants, else be polite; return whether it was a positive reply."""
        return self._act(self._wanted(step, argument, polite=polite))

    def _wanted(self, step: Step, argument: str = "", *, polite: str = "") -> Action:
        return self.server.action(step, argument) or Say(polite or POLITE[step])

    def _act(self, action: Action) -> bool:
        if isinstance(action, HangUp):
            raise _Gone
        if isinstance(action, Hang):
            self.server.stopped.wait()
            raise _Gone
        while isinstance(action, Trickle):
            self._write("250-more")
            if self.server.stopped.wait(action.every_s):
                raise _Gone
        self._write(action.text, over_s=action.over_s)
        if action.hang_up:
            raise _Gone
        return _is_positive(action)

    def _write(self, text: str, *, over_s: float = 0.0) -> None:
        octets = text.encode("utf-8", "surrogateescape") + b"\r\n"
        half = len(octets) // 2 if over_s else 0
        self.sock.sendall(octets[:half])
        if over_s:
            self.server.stopped.wait(over_s)
        self.sock.sendall(octets[half:])

    def _line(self) -> bytes:
        return self._until(b"\r\n")

    def _until(self, end: bytes) -> bytes:
        searched = 0
        while (at := self.pending.find(end, searched)) < 0:
            searched = max(0, len(self.pending) - len(end))
            self._receive()
        found = bytes(self.pending[:at])
        del self.pending[: at + len(end)]
        return found

    def _read_some(self, size: int) -> None:
        while len(self.pending) < size and not self.pending.endswith(b"\r\n.\r\n"):
            self._receive()

    def _receive(self) -> None:
        received = b""
        while not received:
            if self.server.stopped.is_set():
                raise _Gone
            self.server.stopped.wait(self.server.pause_s)
            self.sock.settimeout(0.05)
            try:
                received = self.sock.recv(65536)
            except TimeoutError:
                continue
            finally:
                self.sock.settimeout(None)
            if not received:
                raise _Gone
        self.pending += received


def _address(command: str) -> str:
    return command.partition("<")[2].partition(">")[0]


def _is_positive(action: Say) -> bool:
    return action.text[:1] in {"2", "3"}
