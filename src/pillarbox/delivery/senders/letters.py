"""One message as the pipeline writes it, and what the server has said of it; no sockets."""

from __future__ import annotations

import smtplib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pillarbox import lines
from pillarbox.addresses import bare, is_plain
from pillarbox.delivery.conversation import Envelope
from pillarbox.delivery.outcomes import Outcome, Reply, Stage, replies
from pillarbox.delivery.senders.base import Parcel


@dataclass(slots=True, eq=False)
class Letter:
    """The octets of one mail transaction, and its replies so far."""

    parcel: Parcel
    mail: bytes
    rcpts: Sequence[tuple[str, bytes]]
    """The bare address that a recipient's reply is kept under, and the command."""
    body: bytes
    """With dots doubled and the final one, see `lines.stuffed`; empty once it is written."""
    size_bytes: int = 0
    stage: Stage = Stage.MAIL
    named: int = 0
    """How many of the recipients the server was told of."""
    unanswered: int = 0
    """How many commands it was sent and has not replied to."""
    has_heard: bool = False
    """Whether a reply came."""
    refusal: tuple[Reply, Stage] | None = None
    """Why it is not going to be sent, where MAIL or DATA was refused."""
    is_awaited: bool = False
    """The server said 354: what comes next is the message."""
    is_asking: bool = False
    """Whether its body may be written is being asked, and not answered."""
    lost: Outcome | None = None
    """What became of it while that was not answered."""
    body_from: int | None = None
    body_until: int | None = None
    """Where in all that the connection carries its body starts, and where its dot has left."""
    agreed: dict[str, Reply] = field(default_factory=dict)
    declined: dict[str, Reply] = field(default_factory=dict)
    full: dict[str, Reply] = field(default_factory=dict)
    """Those for whom the server had no room in this transaction."""

    def take_rcpt(self, key: str, reply: Reply) -> bool:
        """Note a recipient's reply; return False where nothing can follow on the connection."""
        reply = replies.too_many_recipients(reply, some_accepted=bool(self.agreed))
        if replies.is_positive(reply):
            self.agreed[key] = reply
            self.declined.pop(key, None)
            self.full.pop(key, None)
            # There was room after all: a 452 that says no more spoke of one mailbox alone.
            self.full = {k: r for k, r in self.full.items() if r.enhanced_code == "4.5.3"}
            return True
        if key not in self.agreed:  # named twice: that it was accepted once is enough
            self.declined[key] = reply
            if replies.has_no_room(reply, some_accepted=bool(self.agreed)):
                self.full[key] = reply
        return replies.is_refusal(reply) and reply.code != replies.CLOSING

    def put_off_the_rest(self) -> None:
        """Give those that were not asked for the reply that says why."""
        why = next(iter(self.full.values()))
        for key, _ in self.rcpts[self.named :]:
            if key not in self.agreed and key not in self.declined:
                self.declined[key] = self.full[key] = why
        self.named = len(self.rcpts)

    def refused(self, reply: Reply, stage: Stage) -> Outcome:
        """Return what a reply at ``stage`` makes of it, beside what the recipients' have."""
        return replies.refused(reply, stage=stage, recipients=self.declined)

    def cut_off(self, why: Reply) -> Outcome:
        """Return what it means that the connection ended now."""
        if self.refusal is not None:
            return self.refused(*self.refusal)
        return replies.cut_off(why, stage=self.stage, recipients=self.declined)

    def accepted(self, reply: Reply) -> Outcome:
        """Return what the 2xx after its dot makes of it."""
        if not self.declined:
            return replies.accepted(reply, agreed=self.agreed, declined=self.declined)
        put_off = frozenset(self.full.keys() & self.declined.keys())
        return replies.accepted(reply, agreed=self.agreed, declined=self.declined, put_off=put_off)


def compose(smtp: smtplib.SMTP, parcel: Parcel, envelope: Envelope) -> Letter:
    """Return the commands that smtplib would write on ``smtp`` for the envelope, and the body.

    Raise ValueError or SMTPNotSupportedError where smtplib refuses to write such an address or
    option.
    """
    scribe = _Scribe(smtp)
    mail = _mail(scribe, envelope)
    rcpts = [(bare(address), _rcpt(scribe, wire, envelope)) for address, wire in envelope.addresses]
    body = lines.stuffed(envelope.content)
    return Letter(parcel, mail, rcpts, body, len(body))


def _mail(scribe: _Scribe, envelope: Envelope) -> bytes:
    options: tuple[str, ...] = ()
    if scribe.does_esmtp:
        # The same parameters, in the same order, as smtplib's sendmail() gives.
        size = (f"size={len(envelope.content)}",) if scribe.has_extn("size") else ()
        options = size + envelope.mail_options
    if envelope.mail_options in _PLAIN_OPTIONS and is_plain(envelope.sender):
        return " ".join((f"{_MAIL}<{envelope.sender}>", *options)).encode("ascii") + b"\r\n"
    return scribe.write(lambda: scribe.mail(envelope.sender, options))


def _rcpt(scribe: _Scribe, address: str, envelope: Envelope) -> bytes:
    if not envelope.rcpt_options and is_plain(address):
        return f"{_RCPT}<{address}>\r\n".encode("ascii")
    return scribe.write(lambda: scribe.rcpt(address, envelope.rcpt_options))


class _Scribe(smtplib.SMTP):
    """smtplib as it is, but for the wire: it keeps the octets of one command."""

    def __init__(self, smtp: smtplib.SMTP) -> None:
        self.does_esmtp = smtp.does_esmtp
        self.esmtp_features = smtp.esmtp_features
        self.command_encoding = "ascii"
        self._written = b""

    def write(self, command: Callable[[], object]) -> bytes:
        """Return what ``command`` writes."""
        command()
        return self._written

    def send(self, s: object) -> None:
        """Keep the command. Raise UnicodeEncodeError where smtplib does."""
        assert isinstance(s, str)
        self._written = s.encode(self.command_encoding)

    def getreply(self) -> tuple[int, bytes]:
        """Say nothing."""
        return 250, b""


def _verbs() -> tuple[str, str]:
    """Return how smtplib spells what stands before an address: Python 3.13 says ``from:``."""
    scribe = _Scribe(smtplib.SMTP())
    written = scribe.write(lambda: scribe.mail("a@b")), scribe.write(lambda: scribe.rcpt("a@b"))
    mail, rcpt = (command.decode("ascii").partition("<")[0] for command in written)
    return mail, rcpt


# smtplib's parser takes 8 µs for an address; what it makes of a plain one is known.
_MAIL, _RCPT = _verbs()
_PLAIN_OPTIONS = {(), ("body=8BITMIME",)}
"""What the composer asks for; of any other option smtplib is the judge."""
