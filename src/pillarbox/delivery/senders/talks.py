"""One open connection in the hands of the loop: its socket, its pipeline, its clock."""

from __future__ import annotations

import smtplib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import cast

from pillarbox.backends.smtp import EmailBackend
from pillarbox.delivery.conversation import LAST_WORDS_S, RFC_TIMEOUTS_S
from pillarbox.delivery.outcomes import Reply, Stage
from pillarbox.delivery.senders.answers import Ask
from pillarbox.delivery.senders.base import Parcel
from pillarbox.delivery.senders.connections import Connection
from pillarbox.delivery.senders.events import Event
from pillarbox.delivery.senders.lanes import Worker
from pillarbox.delivery.senders.letters import Letter, compose
from pillarbox.delivery.senders.pipeline import BLOCK_BYTES, Pipeline
from pillarbox.delivery.senders.wire import TLS_BLOCK_BYTES, Wire

BLOCKS_AT_ONCE = 8
"""Half a megabyte, then the other connections have their turn."""
STAGES = {Ask.MAIL: Stage.MAIL, Ask.RCPT: Stage.RCPT, Ask.DATA: Stage.DATA, Ask.DOT: Stage.DOT}


class Talk(Worker):
    """A connection at work. Its verbs return the events that they lead to; none of them blocks."""

    connection: Connection

    def __init__(self, mailer: str, connection: Connection) -> None:
        super().__init__()
        self.mailer = mailer
        self.connection = connection
        self.backend = cast("EmailBackend", connection.backend)
        self.smtp = cast("smtplib.SMTP", self.backend.connection)
        self.wire = Wire(self.smtp)
        pipelining = self.smtp.does_esmtp and self.smtp.has_extn("pipelining")
        self.pipeline = Pipeline(pipelining=pipelining, is_used=not connection.is_new)
        self.next: Parcel | None = None
        """The parcel that goes next, of which the server knows nothing."""
        self.letter: Letter | None = None
        """The same one, ready to be written."""
        self.is_proven = True
        """It has just been opened or probed, however long ago a message went by it."""
        self.is_attached = False
        """Whether the socket is still in the loop's hands."""
        self.mask = 0
        self._limit_s = self.backend.timeout_s()
        self._housekeeping_s = self.backend.housekeeping_timeout_s()
        self._touched = time.monotonic()
        self._broken: OSError | None = None
        self._clocks: dict[Parcel, tuple[datetime, float]] = {}

    def compose(self) -> None:
        """Render the next parcel. Raise what rendering raises, ValueError without recipients."""
        assert self.next is not None
        assert self.next.email is not None
        envelope = self.backend.render(self.next.email, self.next.envelope)
        if not envelope.addresses:
            raise ValueError("The message has no recipients.")
        self.letter = compose(self.smtp, self.next, envelope)

    def name(self) -> None:
        """Give the server the envelope of the letter that is ready."""
        assert self.letter is not None
        letter, self.letter, self.next = self.letter, None, None
        self.connection.take_up()
        if not self.pipeline.letters:  # else it is told with the end of the one before it
            self._clocks[letter.parcel] = now = _now()
            self._touched = now[1]
        self.pipeline.name(letter)

    def write(self, letter: Letter) -> list[Event]:
        """Take up the body of a letter whose begin is committed; `push` writes it."""
        self._touched = time.monotonic()
        return self.pipeline.write(letter)

    def drop_next(self) -> Parcel | None:
        """Return the next parcel and forget it."""
        dropped, self.next, self.letter = self.next, None, None
        return dropped

    @property
    def last(self) -> Parcel | None:
        """The parcel that goes last by it, of those that it has."""
        if self.next is not None:
            return self.next
        return self.pipeline.letters[-1].parcel if self.pipeline.letters else None

    def took(self, letter: Letter) -> tuple[datetime, float]:
        """Return when the letter's conversation began and how many seconds it has lasted.

        That of the one behind it begins now.
        """
        now = _now()
        started_at, started = self._clocks.pop(letter.parcel, now)
        for other in self.pipeline.letters:
            self._clocks[other.parcel] = now
        return started_at, now[1] - started

    @property
    def begun(self) -> list[Parcel]:
        """The parcel whose body is, or is being, written."""
        return [each.parcel for each in self.pipeline.letters if each.body_from is not None]

    @property
    def dot_waits_s(self) -> float:
        """For how long the server has kept silent about a message that is all written."""
        is_silent = self.pipeline.awaited is Ask.DOT and not self.pipeline.has_output
        return time.monotonic() - self._touched if is_silent else 0.0

    def pull(self) -> list[Event]:
        """Read what has come."""
        try:
            octets, has_ended = self.wire.read()
        except OSError as error:
            return self.lose(self._broken or error)
        events: list[Event] = []
        if octets:
            heard_at = self.connection.heard()
            events = self.pipeline.receive(octets)
            if self.pipeline.answers.is_between:  # RFC 5321 4.5.3.2 times replies, not octets
                self._touched = heard_at
        if has_ended:
            over = smtplib.SMTPServerDisconnected("Connection unexpectedly closed")
            events += self.lose(self._broken or over)
        return events

    def push(self) -> list[Event]:
        """Write what is to be written, as far as the socket takes it."""
        events: list[Event] = []
        pipeline, wire = self.pipeline, self.wire
        for _ in range(BLOCKS_AT_ONCE):
            if not pipeline.has_output or self._broken is not None:
                break
            if (letter := pipeline.writing) is not None:
                events += self._check(letter)
                if pipeline.is_over:
                    break
            block = pipeline.block(TLS_BLOCK_BYTES if wire.is_tls else BLOCK_BYTES)
            if wire.is_tls:
                pipeline.trying(len(block))
            try:
                taken = wire.write(block)
            except OSError as error:
                # It may have said why, before it stopped reading.
                self._broken, self._touched = error, time.monotonic()
                events += self.pull()
                break
            if not taken:
                break
            self._touched = time.monotonic()
            if not pipeline.wrote(taken):
                break
        return events

    def _check(self, letter: Letter) -> list[Event]:
        """Ask before each block of a body whether to go on: the fence, and then the server."""
        may_write = letter.parcel.may_write
        if may_write is not None and not may_write():
            return self.lose(OutOfTime("The drain's lease is no longer fresh."))
        if letter.body_from is not None and self.pipeline.written > letter.body_from:
            return self.pull()
        return []

    def lose(self, error: Exception) -> list[Event]:
        """End the conversation: what broke it says what the server's silence means."""
        why = Reply(text=f"{type(error).__name__}: {error}")
        has_hung_up = isinstance(error, smtplib.SMTPServerDisconnected | ConnectionError)
        return self.pipeline.lose(why, has_hung_up=has_hung_up)

    @property
    def deadline(self) -> float | None:
        """When the server is given up, by time.monotonic(); None where nothing is awaited."""
        if self._broken is not None:
            return self._touched + LAST_WORDS_S
        limit_s = self._awaits_s()
        return None if limit_s is None else self._touched + limit_s

    def _awaits_s(self) -> float | None:
        if self.pipeline.writing is not None:
            return self._step_s(Stage.BODY)
        asked = self.pipeline.awaited
        if asked is None:
            return self._housekeeping_s if self.pipeline.has_output else None
        stage = STAGES.get(asked)
        return self._housekeeping_s if stage is None else self._step_s(stage)

    def _step_s(self, stage: Stage) -> float:
        limit_s = RFC_TIMEOUTS_S[stage] if self._limit_s is None else self._limit_s
        return max(limit_s, RFC_TIMEOUTS_S[Stage.DOT]) if stage is Stage.DOT else limit_s

    def time_out(self) -> list[Event]:
        """End what has waited too long."""
        return self.lose(self._broken or TimeoutError("timed out"))


class OutOfTime(Exception):
    """Others may have the message by now: not a byte more of it may be written."""


_now: Callable[[], tuple[datetime, float]] = lambda: (datetime.now(UTC), time.monotonic())  # noqa: E731
