"""One message's SMTP conversation on an open connection, reply by reply; renders nothing.

    MAIL FROM → RCPT TO, each → DATA → the body and the dot → the final reply

It knows at every moment which `Stage` is under way, and judges nothing itself: what replies and
their absence mean is in ``pillarbox.delivery.outcomes.replies``.
"""

from __future__ import annotations

import selectors
import smtplib
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import InitVar, dataclass, field

from pillarbox import lines
from pillarbox.addresses import bare
from pillarbox.delivery import outcomes
from pillarbox.delivery.outcomes import Outcome, Reply, Stage, replies

RFC_TIMEOUTS_S = {
    Stage.OPEN: 300.0,
    Stage.MAIL: 300.0,
    Stage.RCPT: 300.0,
    Stage.DATA: 120.0,
    Stage.BODY: 180.0,
    Stage.DOT: 600.0,
}
"""RFC 5321 4.5.3.2. The body's holds for each block, the dot's even where a shorter one is set."""
BLOCK_BYTES = 64 * 1024
LAST_WORDS_S = 1.0


@dataclass(slots=True)
class Envelope:
    """What goes over the wire: a sender, recipients as (in the message, on the wire), bytes.

    The bytes have neither a bare CR nor a bare LF: whoever gives such gets CRLF for them. Only the
    composer may say ``has_crlf``, whose bytes are made so: to look through them takes as long as
    all its headers.
    """

    sender: str
    addresses: Sequence[tuple[str, str]]
    content: bytes
    mail_options: tuple[str, ...] = ()
    rcpt_options: tuple[str, ...] = ()
    has_crlf: InitVar[bool] = field(default=False, kw_only=True)

    def __post_init__(self, has_crlf: bool) -> None:
        if not has_crlf:
            self.content = lines.with_crlf(self.content)


class Conversation:
    """One message on ``smtp``, which is closed unless another message may follow on it.

    ``timeout_s`` is for each step, None for the RFC's. The socket gets its own timeout back.
    ``may_write`` is asked before DATA and before each block of the body: once it says no, the
    connection is closed without a dot, so that nothing is delivered.
    """

    def __init__(
        self,
        smtp: smtplib.SMTP,
        timeout_s: float | None,
        *,
        housekeeping_s: float = 30.0,
        may_write: Callable[[], bool] | None = None,
    ) -> None:
        self.smtp = smtp
        self.stage = Stage.OPEN
        self._timeout_s = timeout_s
        self._housekeeping_s = housekeeping_s
        self._may_write = may_write
        self._agreed: dict[str, Reply] = {}
        self._declined: dict[str, Reply] = {}
        self._put_off: frozenset[str] = frozenset()

    def hold(self, envelope: Envelope) -> Outcome:
        """Send the message and return its outcome; never raises for a delivery error."""
        own_timeout_s = self._socket().gettimeout()
        try:
            outcome = self._hold(envelope)
        except BaseException:
            self.smtp.close()  # interrupted in mid-conversation: nothing can follow on it
            raise
        if self.smtp.sock is not None:
            self.smtp.sock.settimeout(own_timeout_s)
        return outcome

    def _hold(self, envelope: Envelope) -> Outcome:
        try:
            return self._converse(envelope)
        except _Refused as refused:
            return self._refused(refused.reply)
        except (ValueError, smtplib.SMTPNotSupportedError) as error:
            # smtplib refuses to write such an address or option: nothing of it was written.
            self._reset()
            return outcomes.classify(error, stage=Stage.RENDER)
        except Exception as error:  # noqa: BLE001 - whatever broke it, the stage says what it means
            self.smtp.close()
            reply = Reply(text=f"{type(error).__name__}: {error}")
            return replies.cut_off(reply, stage=self.stage, recipients=self._declined)

    def _converse(self, envelope: Envelope) -> Outcome:
        self._step(Stage.OPEN)
        self.smtp.ehlo_or_helo_if_needed()  # where nobody has yet: Django's does at the first mail
        self._mail(envelope)
        self._name_recipients(envelope)
        if not self._agreed:
            self._reset()
            return replies.all_refused(self._declined)
        self._data()
        self._body(envelope.content)
        reply = self._dot()
        return replies.accepted(
            reply, agreed=self._agreed, declined=self._declined, put_off=self._put_off
        )

    def _step(self, stage: Stage) -> None:
        self.stage = stage
        limit_s = RFC_TIMEOUTS_S[stage] if self._timeout_s is None else self._timeout_s
        if stage is Stage.DOT:
            limit_s = max(limit_s, RFC_TIMEOUTS_S[Stage.DOT])
        self._socket().settimeout(limit_s)

    def _socket(self) -> socket.socket:
        if self.smtp.sock is None:
            raise smtplib.SMTPServerDisconnected("The connection is closed.")
        return self.smtp.sock

    def _mail(self, envelope: Envelope) -> None:
        self._step(Stage.MAIL)
        options: list[str] = []
        if self.smtp.does_esmtp:
            # The same parameters, in the same order, as smtplib's sendmail() gives.
            if self.smtp.has_extn("size"):
                options.append(f"size={len(envelope.content)}")
            options += envelope.mail_options
        reply = replies.parse(*self.smtp.mail(envelope.sender, options))
        if not replies.is_positive(reply):
            raise _Refused(reply)

    def _name_recipients(self, envelope: Envelope) -> None:
        """Ask for each recipient, until the server has no room for more in this transaction."""
        for number, (address, on_the_wire) in enumerate(envelope.addresses):
            reply = self._rcpt(address, on_the_wire, envelope)
            if replies.has_no_room(reply, some_accepted=bool(self._agreed)):
                rest = {bare(other) for other, _ in envelope.addresses[number:]}
                self._put_off = frozenset(rest - self._agreed.keys())
                self._declined |= dict.fromkeys(self._put_off, reply)
                return

    def _rcpt(self, address: str, on_the_wire: str, envelope: Envelope) -> Reply:
        self._step(Stage.RCPT)
        reply = replies.parse(*self.smtp.rcpt(on_the_wire, envelope.rcpt_options))
        reply = replies.too_many_recipients(reply, some_accepted=bool(self._agreed))
        key = bare(address)
        if replies.is_positive(reply):
            self._agreed[key] = reply
            self._declined.pop(key, None)
            return reply
        if key not in self._agreed:  # named twice: that it was accepted once is enough
            self._declined[key] = reply
        if reply.code == replies.CLOSING or not replies.is_refusal(reply):
            raise _Refused(reply)
        return reply

    def _data(self) -> None:
        self._step(Stage.DATA)
        self._stay_within_the_fence()
        reply = replies.parse(*self.smtp.docmd("data"))
        if reply.code is None or reply.code // 100 != 3:
            raise _Refused(reply)

    def _body(self, content: bytes) -> None:
        self._step(Stage.BODY)
        sock = self._socket()
        for block, is_last in _blocks(content):
            if is_last and len(content) > BLOCK_BYTES and _has_spoken(sock):
                # It hung up or refused in the middle. Without the dot nothing is in doubt.
                raise _Refused(self._last_words())
            self._stay_within_the_fence()
            try:
                sock.sendall(block)
            except OSError as error:
                # sendall() raises only before the last byte is taken, so the dot did not leave.
                raise _Refused(self._last_words()) from error

    def _stay_within_the_fence(self) -> None:
        if self._may_write is not None and not self._may_write():
            raise OutOfTime("The drain's lease is no longer fresh.")

    def _last_words(self) -> Reply:
        """Return what the server said before it stopped reading. Raise OSError if nothing."""
        self._socket().settimeout(LAST_WORDS_S)
        return replies.parse(*self.smtp.getreply())

    def _dot(self) -> Reply:
        self._step(Stage.DOT)
        reply = replies.parse(*self.smtp.getreply())
        if not replies.is_positive(reply):
            raise _Refused(reply)
        return reply

    def _refused(self, reply: Reply) -> Outcome:
        in_step = self.stage is not Stage.BODY and replies.is_refusal(reply)
        if in_step and reply.code != replies.CLOSING:
            self._reset()
        else:
            self.smtp.close()
        return replies.refused(reply, stage=self.stage, recipients=self._declined)

    def _reset(self) -> None:
        """Make ready for the next message; a server that will not is hung up on."""
        try:
            self._socket().settimeout(self._housekeeping_s)
            code, _ = self.smtp.rset()
        except OSError:
            code = -1
        if code != 250:
            self.smtp.close()


class OutOfTime(Exception):
    """Others may have the message by now: not a byte more of it may be written."""


class _Refused(Exception):
    """The server replied, and not as hoped; what it means depends on the stage."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.text)
        self.reply = reply


def _blocks(content: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yield the body as it is written: dots doubled, the final dot in the last block.

    The dot goes with the last of the body in one write, as smtplib's does, and not by itself: a
    second small packet would wait for the first one's acknowledgement.
    """
    stuffed = lines.stuffed(content)
    last = max(0, len(stuffed) - BLOCK_BYTES)
    for start in range(0, last, BLOCK_BYTES):
        yield stuffed[start : min(start + BLOCK_BYTES, last)], False
    yield stuffed[last:], True


def _has_spoken(sock: socket.socket) -> bool:
    """Whether the server has sent something, or hung up, while we were writing."""
    if isinstance(sock, ssl.SSLSocket):
        return False  # what can be read may be TLS's own records, and reading would block
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        return bool(selector.select(0))
