"""The server's end of a scripted SMTP connection: no network, no thread, no waiting.

Above it everything is real: smtplib speaks to it through a socket of the process's own.
"""

from __future__ import annotations

import smtplib
import socket
from dataclasses import dataclass
from typing import Any

_EHLO = b"250-scripted.invalid\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n"
_DOT = b"\r\n.\r\n"
_SILENCE_S = 0.01
"""Replies are there before anybody reads, so that what has not come by then never will."""


@dataclass(frozen=True)
class Script:
    """How the server behaves in one conversation; the default accepts."""

    at_rcpt: tuple[str | None, ...] = ()
    """Replies to the first RCPT, the second, …; None and what is missing accept."""
    at_dot: str = "250 2.0.0 Accepted"
    hangs_up: bool = False
    """Says 421 to MAIL and closes the connection."""
    is_silent: bool = False
    """Takes the message and never answers the final dot."""


class ScriptedSocket:
    """A connected socket that answers in the very call that writes to it."""

    def __init__(self) -> None:
        self._client, self._server = socket.socketpair()
        self._client.settimeout(_SILENCE_S)
        self.script = Script()
        self.sender = ""
        self.accepted: list[bool] = []
        """For each RCPT in turn whether it was accepted."""
        self.data = b""
        self._unread = b""
        self._is_in_data = False
        self._has_hung_up = False
        self._answer("220 scripted.invalid ESMTP")

    def begin(self, script: Script) -> None:
        """Start a conversation about one message."""
        self.script = script
        self.sender, self.accepted, self.data = "", [], b""

    def sendall(self, data: bytes) -> None:
        """Take bytes as a server would, command by command."""
        if self._has_hung_up:
            raise BrokenPipeError("The scripted server has hung up.")
        self._unread += bytes(data)
        while self._take():
            pass

    send = sendall

    def _take(self) -> bool:
        """Take one command, or the message up to its dot; False where it is not complete."""
        end = _DOT if self._is_in_data else b"\r\n"
        # An empty message is its dot alone, the line break before it belonging to DATA.
        start = b"\r\n" if self._is_in_data else b""
        head, found, rest = (start + self._unread).partition(end)
        if not found:
            return False
        self._unread = rest
        if self._is_in_data:
            self._take_message(head.removeprefix(b"\r\n"))
        else:
            self._take_command(head.decode("utf-8", "replace"))
        return True

    def _take_message(self, stuffed: bytes) -> None:
        self._is_in_data = False
        lines = [line[1:] if line[:1] == b"." else line for line in stuffed.split(b"\r\n")]
        self.data = b"\r\n".join(lines) + b"\r\n"
        if not self.script.is_silent:
            self._answer(self.script.at_dot)
        if self.script.is_silent or not self.script.at_dot.startswith("2"):
            self.accepted = []  # for nobody, after all

    def _take_command(self, line: str) -> None:
        verb = line.partition(" ")[0].upper().partition(":")[0]
        match verb:
            case "EHLO":
                self._write(_EHLO)
            case "MAIL":
                self._take_mail(_path(line))
            case "RCPT":
                self._take_recipient()
            case "DATA":
                self._is_in_data = any(self.accepted)
                self._answer("354 Go on" if any(self.accepted) else "554 5.5.1 No recipients")
            case "QUIT":
                self._answer("221 2.0.0 Bye")
            case _:  # HELO, RSET, NOOP
                self._answer("250 2.0.0 Ok")

    def _take_mail(self, path: str) -> None:
        self.sender = path
        says = "421 4.3.2 Going down" if self.script.hangs_up else "250 2.1.0 Sender ok"
        self._answer(says)

    def _take_recipient(self) -> None:
        number = len(self.accepted)
        scripted = self.script.at_rcpt[number] if number < len(self.script.at_rcpt) else None
        self.accepted.append(scripted is None)
        self._answer(scripted or "250 2.1.5 Recipient ok")

    def _answer(self, reply: str) -> None:
        self._write(reply.encode() + b"\r\n")
        if reply.startswith("421"):  # RFC 5321 3.8: the server closes the channel
            self._hang_up()

    def _write(self, data: bytes) -> None:
        self._server.sendall(data)

    def _hang_up(self) -> None:
        self._has_hung_up = True
        self._server.close()

    def settimeout(self, timeout_s: float | None) -> None:
        """Keep the short one: a silent server times out at once."""

    def close(self) -> None:
        """Close both ends."""
        self._hang_up()
        self._client.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def _path(line: str) -> str:
    """Return the address of ``MAIL FROM:<address> OPTIONS`` (RFC 5321 4.1.2)."""
    return line.partition("<")[2].partition(">")[0]


class ScriptedSMTP(smtplib.SMTP):
    """smtplib as it is, over a `ScriptedSocket`."""

    wire: ScriptedSocket

    def _get_socket(self, host: str, port: int, timeout: Any) -> Any:
        self.wire = ScriptedSocket()
        return self.wire
