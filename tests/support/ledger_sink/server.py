"""The sink's asyncio server: one `Session` a connection, every step noted before it is answered."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from tests.support.ledger_sink import faults
from tests.support.ledger_sink.faults import Dice
from tests.support.smtp_steps import BODY_CUT_BYTES, POLITE, Step, ehlo_reply

SLOW_S = 0.2
"""How long a slow reply is interrupted, halfway."""
LAST_WORDS_S = 1.0
"""How long a client has to read a 421 before its connection is gone."""
RECEIVE_BYTES = 64 * 1024
"""Small, so that a client with a body of some megabytes still writes when a fault comes in it."""
TURNS = 3
"""Of the event loop: no more pass from an accept to its session, nor from an abort to its note."""
END = b"\r\n.\r\n"
EXTENSIONS = ("SIZE 104857600", "8BITMIME", "ENHANCEDSTATUSCODES")

_MESSAGE_ID = re.compile(rb"^message-id:\s*(\S+)", re.IGNORECASE | re.MULTILINE)


class Sink:
    """What all sessions share: the ledger's file, the dice, and what is announced."""

    def __init__(
        self,
        ledger: Path,
        dice: Dice,
        *,
        tls: ssl.SSLContext | None = None,
        auth: bool = False,
        pipelining: bool = False,
    ) -> None:
        self.dice = dice
        self.tls = tls
        self.auth = auth
        self.pipelining = pipelining
        self.connections = 0
        self.sessions: set[Session] = set()
        self._file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._server: asyncio.Server | None = None

    async def listen(self) -> int:
        """Listen on loopback and return the port."""
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Session(self), sock=listener, backlog=512)
        port: int = listener.getsockname()[1]
        return port

    async def close(self) -> None:
        """Stop listening, let go of every client, and close the ledger."""
        if self._server is not None:
            for listener in self._server.sockets:
                asyncio.get_running_loop().remove_reader(listener)
            # A server that is closed leaks whom it has accepted and not yet made a session of.
            await _turns()
            self._server.close()
        for session in list(self.sessions):
            session.transport.abort()
        await _turns()  # the sessions note that they are closed
        os.close(self._file)

    def write(self, notes: list[dict[str, Any]]) -> None:
        """Append to the ledger in one write, which outlives a kill of this process."""
        os.write(self._file, b"".join(json.dumps(note).encode() + b"\n" for note in notes))

    def extensions(self, *, is_secure: bool) -> list[str]:
        """Return what EHLO announces."""
        offered = list(EXTENSIONS)
        if self.pipelining:
            offered.append("PIPELINING")
        if self.tls is not None and not is_secure:
            offered.append("STARTTLS")
        if self.auth:
            offered.append("AUTH PLAIN")
        return offered


async def _turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


class Session(asyncio.Protocol):
    """One client's connection. Replies to pipelined commands leave in one write, in order."""

    transport: asyncio.Transport

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.number = 0
        self._pending = bytearray()
        self._notes: list[dict[str, Any]] = []
        self._replies: list[bytes] = []
        self._is_paused = False
        self._is_over = False
        self._is_secure = False
        self._then: Callable[[], None] | None = None
        self._forget()

    def _forget(self) -> None:
        """Be between two mails."""
        self._has_sender = False
        self._recipients = 0
        self._in_body = False
        self._is_refused = False
        self._body_noted = False
        self._searched = 0

    # ------------------------------------------------------------------------------- asyncio's

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self.transport = cast("asyncio.Transport", transport)
        self.sink.connections += 1
        self.number = self.sink.connections
        self.sink.sessions.add(self)
        self._reply(Step.BANNER)
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Take what came, and work through all that is complete."""
        if not self._is_over:
            self._pending += data
            self._proceed()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note it; the client may have gone in the middle of anything."""
        self.sink.sessions.discard(self)
        self._is_over = True
        self._note("closed")
        self._flush()

    # ---------------------------------------------------------------------------- the commands

    def _proceed(self) -> None:
        while not self._is_paused and not self._is_over:
            if self._then is not None:
                then, self._then = self._then, None
                then()
            elif not (self._body() if self._in_body else self._line()):
                break
        self._flush()

    def _line(self) -> bool:
        end = self._pending.find(b"\n")
        if end < 0:
            return False
        line = bytes(self._pending[:end]).rstrip(b"\r")
        del self._pending[: end + 1]
        verb = line[:4].upper().decode("ascii", "replace")
        handler = getattr(self, f"_on_{verb.lower()}", None)
        if handler is None:
            self._say("502 5.5.2 What?")
        else:
            handler()
        return True

    def _on_ehlo(self) -> None:
        self._forget()
        self._reply(Step.EHLO, ehlo_reply(self.sink.extensions(is_secure=self._is_secure)))

    def _on_helo(self) -> None:
        self._forget()
        self._say(POLITE[Step.HELO])

    def _on_star(self) -> None:
        if self.sink.tls is None or self._is_secure:
            self._say("503 5.5.1 Not now")
        elif self._reply(Step.STARTTLS):
            self._then = self._start_tls

    def _start_tls(self) -> None:
        assert self.sink.tls is not None
        self._pending.clear()  # nothing said in the clear counts any more
        self._is_paused = True
        self._flush()
        self._starting = asyncio.ensure_future(self._secure(self.sink.tls))

    async def _secure(self, tls: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        try:
            secured = await loop.start_tls(self.transport, self, tls, server_side=True)
        except (OSError, ssl.SSLError):
            self.transport.abort()
            return
        assert secured is not None
        self.transport = secured
        self._is_secure = True
        self._resume()

    def _on_auth(self) -> None:
        self._reply(Step.AUTH)

    def _on_mail(self) -> None:
        if self._has_sender:
            self._say("503 5.5.1 One mail at a time")
            return
        self._has_sender = self._reply(Step.MAIL)

    def _on_rcpt(self) -> None:
        if not self._has_sender:
            self._say("503 5.5.1 MAIL first")
        elif self._reply(Step.RCPT):
            self._recipients += 1

    def _on_data(self) -> None:
        if not self._recipients:
            self._say("554 5.5.1 No valid recipients")
        elif self._reply(Step.DATA):
            self._in_body = True
            self._pending[:0] = b"\r\n"  # so that a body that is a lone dot ends as others do
        else:
            self._forget()

    def _on_rset(self) -> None:
        self._forget()
        self._say(POLITE[Step.RSET])

    def _on_noop(self) -> None:
        self._say(POLITE[Step.NOOP])

    def _on_quit(self) -> None:
        if self._reply(Step.QUIT):
            self._then = self._end

    # -------------------------------------------------------------------------------- the body

    def _body(self) -> bool:
        """Read on; return whether the dot, or a fault before it, was reached."""
        end = self._pending.find(END, self._searched)
        if not self._body_noted and (end >= 0 or len(self._pending) > BODY_CUT_BYTES):
            self._body_noted = True
            self._is_refused = not self._play_in_body()
            return True
        if end < 0:
            if self._is_refused:
                del self._pending[: -len(END)]
            self._searched = max(0, len(self._pending) - len(END))
            return False
        found = _MESSAGE_ID.search(self._pending, 0, end)
        message_id = found[1].decode("ascii", "replace") if found else ""
        recipients, is_refused = self._recipients, self._is_refused
        del self._pending[: end + len(END)]
        self._forget()
        if not is_refused:
            self._dot(message_id, recipients)
        return True

    def _play_in_body(self) -> bool:
        fault = self.sink.dice.throw(Step.BODY)
        self._note(Step.BODY, fault)
        if fault == faults.SLOW:
            self._pause()
            return True
        return fault is None or self._play(Step.BODY, fault, "")

    def _dot(self, message_id: str, recipients: int) -> None:
        facts = {"message_id": message_id, "recipients": recipients}
        fault = self.sink.dice.throw(Step.DOT)
        self._note(Step.DOT, fault, **facts)
        if fault not in {None, faults.SLOW}:
            self._play(Step.DOT, fault, "")
            return
        after = self.sink.dice.throw(Step.ACCEPTED)
        self._note(Step.ACCEPTED, after, **facts)
        self._play(Step.ACCEPTED, after or fault, POLITE[Step.DOT])

    # ------------------------------------------------------------------------ replies and notes

    def _reply(self, step: Step, polite: str = "") -> bool:
        """Note the step and answer it, as it should be or otherwise; return whether positively."""
        fault = self.sink.dice.throw(step)
        self._note(step, fault)
        return self._play(step, fault, polite or POLITE[step])

    def _play(self, step: Step, fault: str | None, polite: str) -> bool:
        if fault is None:
            self._say(polite)
            return True
        if fault == faults.SLOW:
            half = len(polite) // 2
            self._replies.append(polite[:half].encode())
            self._pause(rest=polite[half:])
            return True
        if fault == faults.DISCONNECT:
            self._end()
        elif fault == faults.HANG:
            self._hang()
        else:
            self._say(faults.words(step, fault))
            if fault == "421":
                self._end_when_read()
        return False

    def _say(self, text: str) -> None:
        self._replies.append(text.encode() + b"\r\n")

    def _pause(self, rest: str = "") -> None:
        """Go on after a while, with the rest of a reply if one is cut in two."""
        self._flush()
        self._is_paused = True
        asyncio.get_running_loop().call_later(SLOW_S, self._resume, rest)

    def _resume(self, rest: str = "") -> None:
        if self._is_over:
            return
        if rest:
            self._say(rest)
        self._is_paused = False
        self._proceed()

    def _hang(self) -> None:
        self._is_over = True
        self._flush()
        if self._in_body:
            self.transport.pause_reading()  # else the client could write all of it

    def _end(self) -> None:
        self._is_over = True
        self._flush()
        self.transport.close()

    def _end_when_read(self) -> None:
        """Hang up, but not with data unread: the reset would overtake the words."""
        self._is_over = True
        self._flush()
        if self.transport.can_write_eof():
            self.transport.write_eof()
            asyncio.get_running_loop().call_later(LAST_WORDS_S, self.transport.abort)
        else:
            self.transport.close()

    def _note(self, step: str, fault: str | None = None, **facts: Any) -> None:
        note = {
            "t": time.monotonic(),
            "wall": time.time(),
            "connection": self.number,
            "step": str(step),
            "recipients": self._recipients,
            **facts,
        }
        if fault is not None:
            note["fault"] = fault
        self._notes.append(note)

    def _flush(self) -> None:
        """Write the ledger, and only then the replies."""
        if self._notes:
            notes, self._notes = self._notes, []
            self.sink.write(notes)
        if self._replies:
            replies, self._replies = self._replies, []
            self.transport.write(b"".join(replies))
