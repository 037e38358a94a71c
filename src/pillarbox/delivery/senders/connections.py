"""Open mail connections of this process: kept between drains, probed, aged out, discarded."""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any

from django.core.mail.backends.smtp import EmailBackend as DjangoSMTPBackend
from django.core.signals import setting_changed

from pillarbox.addresses import bare
from pillarbox.backends.smtp import EmailBackend as SMTPBackend
from pillarbox.delivery import outcomes, routes
from pillarbox.delivery.outcomes import Fail, MailerDown, Outcome, Reply, Retry, Sent, Stage

if TYPE_CHECKING:
    from django.core.mail.backends.base import BaseEmailBackend

    from pillarbox.delivery.senders.base import Parcel

logger = logging.getLogger("pillarbox.delivery")

MAX_AGE_S = 300.0
MAX_MESSAGES = 500
PROBE_AFTER_S = 1.0
REGROW_EVERY_S = 60.0
SERVER_MAX = 255


class Connection:
    """One backend of one mailer, opened once and used for many messages."""

    def __init__(self, mailer: str) -> None:
        self.mailer = mailer
        self.era = pool.era
        self.backend: BaseEmailBackend = routes.build(mailer)
        self._opened_at = self._used_at = time.monotonic()
        self._messages = 0
        self._is_kept = False
        self.is_usable = True

    @cached_property
    def server(self) -> str:
        """What it leads to: host and port where it speaks SMTP, else the backend's dotted path."""
        if isinstance(self.backend, DjangoSMTPBackend):
            host, port = self.backend.host, self.backend.port
            return (f"[{host}]:{port}" if ":" in host else f"{host}:{port}")[-SERVER_MAX:]
        kind = type(self.backend)
        return f"{kind.__module__}.{kind.__qualname__}"[-SERVER_MAX:]

    def open(self) -> None:
        """Connect and log in. Raise whatever the backend raises."""
        if isinstance(self.backend, SMTPBackend):
            self.backend.connect()
        else:
            self.backend.open()
        self._opened_at = self._used_at = time.monotonic()

    def send(self, parcel: Parcel) -> Outcome:
        """Send one message and return what became of it; never raises for a delivery error."""
        self.take_up()
        outcome = _by_bare_address(self._send(parcel))
        self.heard()
        return outcome

    def take_up(self) -> None:
        """Count one message more."""
        self._messages += 1

    def heard(self) -> float:
        """Note that the server has just said something; return when, by time.monotonic()."""
        self._used_at = time.monotonic()
        return self._used_at

    @property
    def is_new(self) -> bool:
        """Whether it has just been opened: no message has gone by it, nor was it kept."""
        return self._messages == 0 and not self._is_kept

    def keep(self) -> None:
        """Note that it was put aside for the next drain."""
        self._is_kept = True

    def _send(self, parcel: Parcel) -> Outcome:
        assert parcel.email is not None
        if isinstance(self.backend, SMTPBackend):
            self.backend.may_write = parcel.may_write
            outcome = self.backend.deliver(parcel.email, parcel.envelope)
            self.is_usable = self.backend.is_usable
            return outcome
        if parcel.may_write is not None and not parcel.may_write():
            reply = Reply(text="Not sent: the drain's lease was no longer fresh.")
            return Retry(stage=Stage.SEND, reply=reply)
        try:
            sent = self.backend.send_messages([parcel.email])
        except Exception as error:  # noqa: BLE001 - one bad message stops nothing
            outcome = outcomes.classify(error, stage=Stage.SEND)
            self.is_usable = isinstance(outcome, Fail)
            return outcome
        status: Any = getattr(parcel.email, "anymail_status", None)
        if status is not None and getattr(status, "recipients", None):
            return outcomes.from_anymail(status)
        if not sent and sent is not None:
            return outcomes.not_sent()
        return Sent(stage=Stage.SEND)

    @property
    def idle_s(self) -> float:
        """For how long the server has not been heard of."""
        return time.monotonic() - self._used_at

    def was_stale(self, outcome: Outcome) -> bool:
        """Whether ``outcome`` is but the end of a connection that was used or kept before."""
        is_cut = isinstance(outcome, MailerDown) and outcome.reply.code is None
        return is_cut and (self._messages > 1 or self._is_kept)

    @property
    def is_worn(self) -> bool:
        """Whether it is old or has carried enough to be replaced."""
        age_s = time.monotonic() - self._opened_at
        return not self.is_usable or self._messages >= MAX_MESSAGES or age_s > MAX_AGE_S

    @property
    def is_fresh(self) -> bool:
        """Whether the server was heard of so lately that nobody need ask whether it is there."""
        return self.idle_s < PROBE_AFTER_S

    def is_alive(self) -> bool:
        """Whether it can be used at once: lately used, or it answers a probe."""
        if self.is_fresh:
            return True
        smtp: Any = getattr(self.backend, "connection", None)
        if not hasattr(smtp, "noop"):
            return False
        try:
            code, _ = smtp.noop()
        except Exception:  # noqa: BLE001 - whatever it is, a new connection is the answer
            return False
        self.heard()
        return bool(code == 250)

    def is_ready(self) -> bool:
        """Whether the next message may go by it; asks the server if it was not used lately."""
        return not self.is_worn and self.is_alive()

    def break_off(self) -> None:
        """Cut the socket under a conversation that must end, from another thread."""
        sock = getattr(getattr(self.backend, "connection", None), "sock", None)
        if sock is not None:
            try:
                sock.shutdown(2)
            except OSError:
                logger.debug("The connection to %s had already ended.", self.mailer)

    def close(self) -> None:
        """Close it; a server that does not take the farewell is of no interest."""
        try:
            self.backend.close()
        except Exception as error:  # noqa: BLE001 - whatever it says, we are done with it
            logger.debug("Closing a connection to %s: %s", self.mailer, type(error).__name__)


def _by_bare_address(outcome: Outcome) -> Outcome:
    """Key the replies as the rows do, whatever form of the address the backend answers by."""
    if not outcome.recipients:
        return outcome
    replies = {bare(mailbox): reply for mailbox, reply in outcome.recipients.items()}
    return dataclasses.replace(outcome, recipients=replies)


def server_of(mailer: str) -> str:
    """Return what a mailer leads to, without a connection; nothing where it cannot be built."""
    try:
        return Connection(mailer).server
    except Exception:  # noqa: BLE001 - whatever it is, the attempt to open has told of it
        return ""


class Pool:
    """Idle connections by mailer, of this process alone, and how many a mailer may have."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._idle: dict[str, list[Connection]] = {}
        self._halved: dict[str, tuple[int, float]] = {}
        self.era = 0
        """Counts `close`: what a thread had begun to open before that is not kept after it."""

    def allowance(self, mailer: str, size: int) -> int:
        """Return how many of ``size`` connections the mailer may have: fewer after it was halved.

        After 8 and a halving 4, a minute later 5, 6, 7, and after four minutes 8 again.
        """
        halved = self._halved.get(mailer)
        if halved is None:
            return size
        count, since = halved
        count += int((time.monotonic() - since) / REGROW_EVERY_S)
        if count >= size:
            self._halved.pop(mailer, None)
        return min(size, count)

    def halve(self, mailer: str, present: int) -> None:
        """Allow half of ``present`` connections to the mailer, and at least one."""
        self._halved[mailer] = (max(1, present // 2), time.monotonic())

    def take(self, mailer: str) -> Connection:
        """Return an open connection, a kept one if it still answers. Raise what opening raises."""
        while (kept := self._pop(mailer)) is not None:
            if kept.is_alive():
                return kept
            kept.close()
        connection = Connection(mailer)
        try:
            connection.open()
        except BaseException:
            connection.close()
            raise
        return connection

    def take_fresh(self, mailer: str) -> Connection | None:
        """Return the kept connection that was used last, if it need not be asked whether it is."""
        kept = self._pop(mailer)
        if kept is None or kept.is_fresh:
            return kept
        with self._lock:
            self._idle.setdefault(mailer, []).append(kept)
        return None

    def _pop(self, mailer: str) -> Connection | None:
        with self._lock:
            if self._pid != os.getpid():
                # After a fork the parent's sockets are the parent's: not ours to close politely.
                self._pid, self._idle = os.getpid(), {}
            idle = self._idle.get(mailer)
            return idle.pop() if idle else None

    def keeps(self, connection: Connection) -> bool:
        """Whether a connection is kept for the next drain, and not closed.

        One that is worn is not, nor is any of a server that asked for fewer, nor one from before
        the last `close`: it may lead to where the settings no longer do.
        """
        is_current = connection.era == self.era
        return is_current and not connection.is_worn and connection.mailer not in self._halved

    def give_back(self, connection: Connection) -> None:
        """Keep a connection for the next drain, or close it."""
        with self._lock:
            if is_kept := self.keeps(connection):
                connection.keep()
                self._idle.setdefault(connection.mailer, []).append(connection)
        if not is_kept:
            connection.close()

    def close(self) -> None:
        """Close every idle connection, and forget who asked for fewer."""
        with self._lock:
            idle, self._idle = self._idle, {}
            self._halved.clear()
            self.era += 1
        for connections in idle.values():
            for connection in connections:
                connection.close()


pool = Pool()


def _close_after_change(*, setting: str, **_: Any) -> None:
    if setting in {"PILLARBOX", "MAILERS"} or setting.startswith("EMAIL_"):
        pool.close()


setting_changed.connect(_close_after_change, dispatch_uid="pillarbox.connections")
