"""Django's SMTP backend, which can also say what became of every recipient.

Django's own code opens the connections and, called as a plain Django backend, sends. `deliver`
holds the conversation itself (``pillarbox.delivery.conversation``). No database here.
"""

from __future__ import annotations

import copy
import smtplib
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from django.core.mail.backends.smtp import EmailBackend as DjangoEmailBackend

from pillarbox import addresses, mime
from pillarbox.delivery import outcomes
from pillarbox.delivery.conversation import Conversation, Envelope
from pillarbox.delivery.outcomes import Fail, MailerDown, Outcome, Reply, Stage

if TYPE_CHECKING:
    from django.core.mail import EmailMessage

_SEND, _PREP_ADDRESS = (getattr(DjangoEmailBackend, n, None) for n in ("_send", "prep_address"))
CONNECT_TIMEOUT_S = 30.0
"""For connecting, TLS and logging in, and for QUIT, RSET and NOOP, where no timeout is set."""


class EmailBackend(DjangoEmailBackend):
    """``django.core.mail.backends.smtp.EmailBackend`` and two verbs more: `connect`, `deliver`.

    It takes the options that Django's takes, and ``open``, ``close`` and ``send_messages`` are
    Django's own. One thread at a time, as with Django's.
    """

    may_write: Callable[[], bool] | None = None
    """Asked by `deliver` before DATA and before each block of the body. Once it says no, the
    connection is closed without a dot: the drain that sends may have lost the message by now."""

    def connect(self) -> None:
        """Open the connection if it is not open, say EHLO and log in, never silently.

        Where no timeout is set, 30 s hold for each step of it, and afterwards for the farewell.
        Raise whatever `open` raises, even with ``fail_silently``; classify it with `Stage.OPEN`.
        """
        with self._lock:
            saved = self.timeout, self.fail_silently
            self.timeout = cast("int", self.housekeeping_timeout_s())
            self.fail_silently = False
            try:
                self._open_and_greet()
            finally:
                self.timeout, self.fail_silently = saved

    def _open_and_greet(self) -> None:
        if not self.is_usable:
            self.connection = None  # what is left of one that broke would pass for an open one
        self.open()
        try:
            # Django's open() leaves it to the first mail, where there is neither TLS nor AUTH.
            self._smtp().ehlo_or_helo_if_needed()
        except BaseException:
            self._smtp().close()
            self.connection = None
            raise

    def deliver(self, message: EmailMessage, recipients: Sequence[str] | None = None) -> Outcome:
        """Send one message on the open connection and return what became of it.

        ``recipients`` are the addresses to serve, as they stand in the message; by default all of
        its own, Bcc included. Never raises for a delivery error. Every stage, reply and outcome is
        in ``pillarbox.delivery.outcomes.replies``. The outcome's ``recipients`` are keyed by the
        bare address in lower case: for `Sent` every recipient's reply, else those of the refused
        ones, the others sharing ``reply``.

        Each step has the configured timeout, or that of RFC 5321 4.5.3.2 where none is set; the
        final dot's reply always has ten minutes. Afterwards `is_usable` says whether to keep the
        connection.
        """
        with self._lock:
            if not self.is_usable:
                return MailerDown(reply=Reply(text="There is no connection."), stage=Stage.OPEN)
            try:
                envelope = self.render(message, recipients)
            except Exception as error:  # noqa: BLE001 - a content of any kind fails alone
                return outcomes.classify(error, stage=Stage.RENDER)
            if not envelope.addresses:
                return Fail(reply=Reply(text="The message has no recipients."), stage=Stage.RENDER)
            smtp = self._smtp()
            return Conversation(
                smtp,
                self.timeout_s(),
                housekeeping_s=self.housekeeping_timeout_s(),
                may_write=self.may_write,
            ).hold(envelope)

    @property
    def is_usable(self) -> bool:
        """Whether the connection is open and between two messages, so that another may follow.

        False once the server hung up, was late, said 421 or something that is not SMTP.
        """
        return self.connection is not None and self.connection.sock is not None

    def render(self, message: EmailMessage, recipients: Sequence[str] | None = None) -> Envelope:
        """Return the envelope and bytes for the wire.

        `pillarbox.mime` writes the shapes that it knows. For any other, and for a subclass with a
        ``_send`` or ``prep_address`` of its own, they are what Django's ``_send`` would hand to
        smtplib. Raise whatever rendering raises.
        """
        served = list(message.recipients() if recipients is None else recipients)
        return self._composed(message, served) or self._rendered(message, served)

    def _composed(self, message: EmailMessage, served: list[str]) -> Envelope | None:
        if not self._prepares_as_django:
            return None
        sender = mime.envelope(message.from_email)
        on_the_wire = [mime.envelope(mailbox) for mailbox in served]
        takes_8bit = self.connection is not None and "8bitmime" in self.connection.esmtp_features
        content = None
        if sender and all(on_the_wire):
            content = mime.compose(message, eight_bit=takes_8bit)
        if sender is None or content is None:
            mime.note_left(message)
            return None
        return Envelope(
            sender,
            list(zip(served, cast("list[str]", on_the_wire), strict=True)),
            content,
            () if content.isascii() else ("body=8BITMIME",),  # RFC 6152
            has_crlf=True,
        )

    @property
    def _prepares_as_django(self) -> bool:
        """Whether no subclass has a way of its own with the message or its addresses."""
        kind: Any = type(self)
        return kind._send is _SEND and getattr(kind, "prep_address", None) is _PREP_ADDRESS

    def _rendered(self, message: EmailMessage, served: list[str]) -> Envelope:
        """Let Django prepare everything, with a recorder in the place of a copy's connection.

        So each Django version's way with addresses, and a subclass's way of signing, are kept.
        """
        recorder = _Recorder()
        renderer = copy.copy(self)
        renderer.connection = cast("smtplib.SMTP", recorder)
        renderer.fail_silently = False
        given = self._to_prepare(served)
        cast("Any", renderer)._send(_Readdressed(message, given))
        return recorder.envelope(served, given)

    def _to_prepare(self, served: list[str]) -> list[str]:
        """Return the recipients that Django must prepare for the wire: those that are not plain.

        Its parser takes 30 to 50 µs for each, which a long list that goes in parts pays for every
        part. A subclass with a way of its own is given them all.
        """
        if not self._prepares_as_django:
            return served
        odd = [one for one in served if type(one) is not str or not addresses.is_plain(one)]
        return odd or served[:1]  # for nobody it would do nothing

    def _smtp(self) -> smtplib.SMTP:
        assert self.connection is not None
        return self.connection

    def timeout_s(self) -> float | None:
        """Return the configured limit of each step in seconds, None where there is none."""
        return socket.getdefaulttimeout() if self.timeout is None else float(self.timeout)

    def housekeeping_timeout_s(self) -> float:
        """Return the limit of what is no part of a message, in seconds: 30 where none is set."""
        configured_s = self.timeout_s()
        return CONNECT_TIMEOUT_S if configured_s is None else configured_s


class _Recorder:
    """Takes what smtplib's ``sendmail`` would be given; knows no other command."""

    def __init__(self) -> None:
        self._sender = ""
        self._prepared: list[str] = []
        self._content = b""
        self._mail_options: tuple[str, ...] = ()
        self._rcpt_options: tuple[str, ...] = ()

    def sendmail(
        self,
        from_addr: str,
        to_addrs: str | Sequence[str],
        msg: bytes | str,
        mail_options: Sequence[str] = (),
        rcpt_options: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Keep the arguments; like smtplib, nobody is refused."""
        self._sender = from_addr
        self._prepared = [to_addrs] if isinstance(to_addrs, str) else list(to_addrs)
        self._content = msg if isinstance(msg, bytes) else _encode(msg)
        self._mail_options, self._rcpt_options = tuple(mail_options), tuple(rcpt_options)
        return {}

    def envelope(self, served: Sequence[str], given: Sequence[str]) -> Envelope:
        """Return what was taken, for ``served``, as the message names them.

        ``given`` are those of them that Django has prepared, the others being ready as they are.
        """
        if len(given) == len(self._prepared):
            prepared = dict(zip(given, self._prepared, strict=True))
            pairs = [(one, prepared.get(one, one)) for one in served]
        else:
            # A subclass has left some out; then the replies bear the addresses of the wire.
            pairs = [(one, one) for one in self._prepared]
        return Envelope(
            sender=self._sender,
            addresses=tuple(pairs),
            content=self._content,
            mail_options=self._mail_options,
            rcpt_options=self._rcpt_options,
        )


def _encode(text: str) -> bytes:
    # As smtplib does with a str: lone CR and LF become CRLF, and only ASCII will do.
    return "\r\n".join(text.replace("\r\n", "\n").replace("\r", "\n").split("\n")).encode("ascii")


class _Readdressed:
    """The message as it is, for other recipients."""

    def __init__(self, message: EmailMessage, recipients: list[str]) -> None:
        self._message = message
        self._recipients = recipients

    def recipients(self) -> list[str]:
        return self._recipients

    def __getattr__(self, name: str) -> Any:
        return getattr(self._message, name)
