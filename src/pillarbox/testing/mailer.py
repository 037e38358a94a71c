"""A mailer that answers as a test's script says; it takes the place of every mailer."""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from django.core.mail import EmailMessage

from pillarbox import compat
from pillarbox.addresses import bare
from pillarbox.backends.smtp import EmailBackend
from pillarbox.delivery import routes
from pillarbox.delivery.outcomes import Outcome
from pillarbox.delivery.senders.connections import pool
from pillarbox.testing.wire import Script, ScriptedSMTP

if TYPE_CHECKING:
    from django.core.mail.backends.base import BaseEmailBackend


@dataclass(frozen=True)
class Conversation:
    """One message as the mailer was given it, and what it took."""

    mailer: str
    """The alias that the message was routed to."""
    email: EmailMessage
    sender: str
    recipients: tuple[str, ...]
    """The envelope of this attempt."""
    accepted: tuple[str, ...] = ()
    """The recipients for whom the message was accepted, as the envelope has them."""
    data: bytes = b""
    """The bytes after DATA, dots unstuffed; empty if it did not come to that."""


@dataclass(frozen=True)
class _Step:
    """What one attempt meets."""

    script: Script = field(default_factory=Script)
    is_down: bool = False
    error: BaseException | None = None


class ScriptedMailer:
    """A context manager; inside, every mailer is this one, whatever the settings say.

    Each call of a method below scripts one attempt, in the order of the calls; an attempt without
    a script is accepted. ``for_`` scripts the reply to one recipient instead, in the first attempt
    that has it. A real ``smtplib`` speaks to it, so what becomes of a message is classified as in
    production::

        with ScriptedMailer() as mailer:
            mailer.refuse(550, for_="bob@example.org").sent().defer(451)
    """

    def __init__(self) -> None:
        self.conversations: list[Conversation] = []
        """Every attempt in which a message was given to the mailer, oldest first."""
        self._steps: deque[_Step] = deque()
        self._for: dict[str, deque[str]] = {}
        self._lock = threading.Lock()
        self._before: Callable[[str], BaseEmailBackend] | None = None

    @property
    def outbox(self) -> list[EmailMessage]:
        """The messages that were accepted, for one recipient at least."""
        return [talk.email for talk in self.conversations if talk.accepted]

    def sent(self) -> ScriptedMailer:
        """Accept the message, as without a script."""
        return self._add(_Step())

    def refuse(
        self, code: int = 550, text: str = "5.7.1 Refused", *, for_: str | None = None
    ) -> ScriptedMailer:
        """Refuse the message after its final dot, or one recipient, for good.

        Raise ValueError unless ``code`` is from 500 to 599.
        """
        _check_code(code, 500, "defer")
        return self._reply(code, text, for_)

    def defer(
        self, code: int = 451, text: str = "4.7.1 Try again later", *, for_: str | None = None
    ) -> ScriptedMailer:
        """Refuse the message after its final dot, or one recipient, for now.

        Raise ValueError unless ``code`` is from 400 to 499.
        """
        _check_code(code, 400, "refuse")
        return self._reply(code, text, for_)

    def time_out_after_dot(self) -> ScriptedMailer:
        """Take the whole message and never answer: it is in doubt. Nobody has to wait for it."""
        return self._add(_Step(Script(is_silent=True)))

    def down(self) -> ScriptedMailer:
        """Refuse the connection, or say 421 on one that is open before it takes the message."""
        return self._add(_Step(Script(hangs_up=True), is_down=True))

    def raises(self, error: BaseException) -> ScriptedMailer:
        """Raise ``error`` where the message is sent, as a backend of another package may."""
        return self._add(_Step(error=error))

    def _reply(self, code: int, text: str, for_: str | None) -> ScriptedMailer:
        reply = f"{code} {text}"
        if for_ is None:
            return self._add(_Step(Script(at_dot=reply)))
        with self._lock:
            self._for.setdefault(bare(for_), deque()).append(reply)
        return self

    def _add(self, step: _Step) -> ScriptedMailer:
        with self._lock:
            self._steps.append(step)
        return self

    def refuses_connection(self) -> bool:
        """Whether the next attempt finds the server down; then that is its whole script."""
        with self._lock:
            if self._steps and self._steps[0].is_down:
                self._steps.popleft()
                return True
            return False

    def next_script(self, recipients: Sequence[str]) -> Script:
        """Take the script of the next attempt. Raise the error that it has."""
        with self._lock:
            step = self._steps.popleft() if self._steps else _Step()
            if step.error is not None:
                raise step.error
            waiting = [self._for.get(bare(mailbox)) for mailbox in recipients]
            replies = tuple(left.popleft() if left else None for left in waiting)
            return replace(step.script, at_rcpt=replies)

    def note(self, conversation: Conversation) -> None:
        """Keep what was given."""
        with self._lock:
            self.conversations.append(conversation)

    def _build(self, alias: str) -> BaseEmailBackend:
        return _Backend(self, alias)

    def __enter__(self) -> ScriptedMailer:
        # Connections kept from before would go past the script, and ours past the real mailers.
        pool.close()
        self._before, routes.override = routes.override, self._build
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        routes.override = self._before
        pool.close()


def _check_code(code: int, first: int, other: str) -> None:
    if not first <= code < first + 100:
        raise ValueError(f"{code} is not from {first} to {first + 99}. Use {other}() for others.")


class _Backend(EmailBackend):
    """Pillarbox's SMTP backend, connected to the script."""

    connection_class = ScriptedSMTP

    def __init__(self, mailer: ScriptedMailer, alias: str) -> None:
        identity: dict[str, Any] = {"alias": alias} if compat.HAS_MAILERS else {}
        plain: dict[str, Any] = {"username": "", "password": "", "use_tls": False, "use_ssl": False}
        super().__init__(host="scripted.invalid", port=25, **plain, **identity)
        self._mailer = mailer
        self._name = alias

    def open(self) -> bool | None:
        """Connect to the script. Raise ConnectionRefusedError if it says so."""
        if self.connection is None and self._mailer.refuses_connection():
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        return super().open()

    def deliver(self, message: EmailMessage, recipients: Sequence[str] | None = None) -> Outcome:
        """Deliver by the next script. Raise what `ScriptedMailer.raises` was given."""
        if not self.is_usable:
            return super().deliver(message, recipients)
        envelope = tuple(message.recipients() if recipients is None else recipients)
        given = Conversation(self._name, message, message.from_email, envelope)
        try:
            script = self._mailer.next_script(envelope)
        except BaseException:
            self._mailer.note(given)
            raise
        assert isinstance(self.connection, ScriptedSMTP)
        wire = self.connection.wire
        wire.begin(script)
        outcome = super().deliver(message, recipients)
        accepted = tuple(compress(envelope, wire.accepted))
        sender = wire.sender or given.sender
        self._mailer.note(replace(given, sender=sender, accepted=accepted, data=wire.data))
        return outcome
