"""Assertions on what became of mail, read from the rows; each returns the messages it found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.db import router

from pillarbox import codec
from pillarbox.addresses import bare
from pillarbox.attachments import BlobReader
from pillarbox.models import Message, Recipient, RecipientState, State

SHOWN_MAX = 20
_SUBJECT_MAX = 255
"""How much of a subject a row keeps for looking."""


@dataclass(frozen=True)
class _Fate:
    """What is asked: of a message as a whole, and of one of its recipients."""

    name: str
    message: frozenset[State]
    recipients: frozenset[RecipientState]


_SENT = _Fate("sent", frozenset({State.SENT, State.PARTLY_SENT}), frozenset({RecipientState.SENT}))
_QUEUED = _Fate(
    "queued",
    frozenset({State.QUEUED, State.SENDING}),
    # In doubt and queued at once is what the policy "resend" makes of a doubt.
    frozenset({RecipientState.PENDING, RecipientState.IN_DOUBT}),
)
_FAILED = _Fate(
    "failed", frozenset({State.FAILED, State.PARTLY_SENT}), frozenset({RecipientState.FAILED})
)
_IN_DOUBT = _Fate(
    "in doubt", frozenset({State.IN_DOUBT, State.QUEUED}), frozenset({RecipientState.IN_DOUBT})
)

Addresses = str | Sequence[str] | None


def assert_sent(
    *,
    to: Addresses = None,
    subject: str | None = None,
    stream: str | None = None,
    count: int | None = None,
    using: str | None = None,
) -> list[Message]:
    """Assert that mail was sent: one message at least, or exactly ``count``.

    Args:
        to: An address, or several that must all have got the same message, as To, Cc or Bcc. A
            server accepted the message for each, whatever became of its other recipients.
        subject: The whole subject.
        stream: The stream.
        count: How many messages are to match.
        using: The database; the one that the routers give for `Message` if None.

    Returns:
        The messages that match, oldest first.

    Raises:
        AssertionError: It shows what there was instead.
    """
    __tracebackhide__ = True
    return _assert(_SENT, to, subject, stream, count, using)


def assert_not_sent(
    *,
    to: Addresses = None,
    subject: str | None = None,
    stream: str | None = None,
    using: str | None = None,
) -> None:
    """Assert that no such mail was sent; the arguments are those of `assert_sent`."""
    __tracebackhide__ = True
    _assert(_SENT, to, subject, stream, 0, using)


def assert_queued(
    *,
    to: Addresses = None,
    subject: str | None = None,
    stream: str | None = None,
    count: int | None = None,
    using: str | None = None,
) -> list[Message]:
    """Assert that mail waits for its first attempt or for another one; see `assert_sent`.

    ``to`` are recipients that are still to be served.
    """
    __tracebackhide__ = True
    return _assert(_QUEUED, to, subject, stream, count, using)


def assert_not_queued(
    *,
    to: Addresses = None,
    subject: str | None = None,
    stream: str | None = None,
    using: str | None = None,
) -> None:
    """Assert that no such mail waits; see `assert_queued`."""
    __tracebackhide__ = True
    _assert(_QUEUED, to, subject, stream, 0, using)


def assert_failed(
    *,
    to: Addresses = None,
    subject: str | None = None,
    stream: str | None = None,
    count: int | None = None,
    using: str | None = None,
) -> list[Message]:
    """Assert that mail was refused for good, for all of ``to`` where given; see `assert_sent`.

    A message that is yet to be tried again for another recipient is not found.
    """
    __tracebackhide__ = True
    return _assert(_FAILED, to, subject, stream, count, using)


def assert_in_doubt(
    *,
    to: Addresses = None,
    subject: str | None = None,
    stream: str | None = None,
    count: int | None = None,
    using: str | None = None,
) -> list[Message]:
    """Assert that it is unknown whether mail was sent; see `assert_sent`.

    Under the policy ``resend`` such a message is queued again too, so `assert_queued` finds it
    as well.
    """
    __tracebackhide__ = True
    return _assert(_IN_DOUBT, to, subject, stream, count, using)


def _assert(
    fate: _Fate,
    to: Addresses,
    subject: str | None,
    stream: str | None,
    count: int | None,
    using: str | None,
) -> list[Message]:
    __tracebackhide__ = True
    wanted = {bare(to)} if isinstance(to, str) else {bare(mailbox) for mailbox in to or ()}
    known = _read(using or router.db_for_write(Message))
    found = [one.message for one in known if one.matches(fate, wanted, subject, stream)]
    if len(found) == count or (count is None and found):
        return found
    asked = _describe(fate, wanted, subject, stream, count)
    shown = "\n".join(f"  {one}" for one in known[:SHOWN_MAX]) or "  (nothing)"
    more = f"\n  … and {len(known) - SHOWN_MAX} more" if len(known) > SHOWN_MAX else ""
    raise AssertionError(f"{asked}, found {len(found)}. Messages there are:\n{shown}{more}")


def _describe(
    fate: _Fate, to: set[str], subject: str | None, stream: str | None, count: int | None
) -> str:
    number = {None: "at least 1", 0: "no"}.get(count, str(count))
    about = [f"to {', '.join(sorted(to))}"] if to else []
    about += [f"with the subject {subject!r}"] if subject is not None else []
    about += [f"in the stream {stream!r}"] if stream is not None else []
    words = [number, "message" if count in {None, 1} else "messages", fate.name, *about]
    return f"Expected {' '.join(words)}"


class _Known:
    """A message and what is known of each of its recipients."""

    def __init__(self, message: Message, rows: Sequence[Recipient], reader: BlobReader) -> None:
        self.message = message
        self.rows = rows
        self.states = {row.address: RecipientState(row.state) for row in rows}
        if not message.is_erased:
            for mailbox in codec.decode(message.content, reader).recipients():
                self.states.setdefault(bare(mailbox), RecipientState.PENDING)

    def matches(self, fate: _Fate, to: set[str], subject: str | None, stream: str | None) -> bool:
        """Whether this is what was asked for."""
        if subject is not None and self.message.subject != subject[:_SUBJECT_MAX]:
            return False
        if stream is not None and self.message.stream != stream:
            return False
        if fate is not _SENT and self.message.state not in fate.message:
            return False  # what a server took is sent, whatever became of the others
        if to:
            return all(self.states.get(address) in fate.recipients for address in to)
        if fate is _IN_DOUBT and self.message.state != State.IN_DOUBT:
            return not fate.recipients.isdisjoint(self.states.values())
        return self.message.state in fate.message

    def __str__(self) -> str:
        message = self.message
        to = ", ".join(self._recipient(address) for address in self.states) or (
            message.first_recipient
        )
        due = f", due {message.due_at:%Y-%m-%d %H:%M:%S} UTC" if self._waits else ""
        return f"{message.state}: {message.subject!r} to {to} (stream {message.stream!r}{due})"

    @property
    def _waits(self) -> bool:
        return self.message.state == State.QUEUED

    def _recipient(self, address: str) -> str:
        row = next((row for row in self.rows if row.address == address), None)
        if row is None:
            return address
        reply = f": {row.code} {row.reply}" if row.code else ""
        return f"{address} [{row.state}{reply}]"


def _read(using: str) -> list[_Known]:
    reader = BlobReader(using)
    messages = Message.objects.using(using).prefetch_related("recipients").order_by("pk")
    return [_Known(message, list(message.recipients.all()), reader) for message in messages]
