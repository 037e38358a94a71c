"""What is to be written of a message: the values of its row that its caller decides; no queries."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django.core.mail import EmailMessage
from django.core.mail.utils import DNS_NAME

from pillarbox import addresses, codec
from pillarbox.addresses import characters
from pillarbox.attachments import Writer
from pillarbox.codec import Letter
from pillarbox.models import Priority
from pillarbox.models.clock import host_now
from pillarbox.outbox.options import Options

_random = random.Random()  # of our own: a project may seed the other, and so repeat its numbers
if hasattr(os, "register_at_fork"):  # on POSIX
    os.register_at_fork(after_in_child=_random.seed)


class Terms(NamedTuple):
    """What the options say, at one moment, of every row: values under their columns' names."""

    stream: str
    priority: Priority
    due_at: datetime | None
    """None: the moment of the INSERT, by the database's clock."""
    expires_at: datetime | None
    in_doubt: str
    using: str
    date: datetime
    idempotency_key: str | None
    tags: Sequence[str]
    metadata: Mapping[str, Any]
    sensitive: bool
    header_date: str
    """The date as its header has it, which is no column."""


class Draft(NamedTuple):
    """The terms of a row, and its own values; all others are as in every new row."""

    terms: Terms
    message_id: str
    subject: str
    from_email: str
    first_recipient: str
    recipient_count: int
    content: str
    fingerprint: str

    def columns(self) -> dict[str, Any]:
        """Return all these values under their columns' names; what can be changed is a copy."""
        terms = self.terms
        columns: dict[str, Any] = dict(zip(_COLUMNS, (*terms[:-1], *self[1:]), strict=True))
        columns["tags"], columns["metadata"] = list(terms.tags), dict(terms.metadata)
        return columns


TERMS = Terms._fields[:-1]
OWN = Draft._fields[1:]
_COLUMNS = (*TERMS, *OWN)


def terms_of(options: Options) -> Terms:
    """Return what the options say now. Raise InvalidMessage for what would expire unsent."""
    now = host_now()
    send_at, expires_at = options.schedule(now)
    date = max(now, send_at) if send_at else now
    return Terms(
        options.stream,
        options.priority_number,
        send_at,
        expires_at,
        options.in_doubt or "",
        options.using,
        date,
        options.idempotency_key,
        options.tags,
        options.metadata or {},
        options.is_sensitive,
        codec.header_date(date),
    )


def draft(mail: Letter | EmailMessage, terms: Terms, blobs: Writer) -> Draft:
    """Encode a message that was checked; the bytes of its attachments go into ``blobs``.

    For a letter this makes no query. Raise InvalidMessage for what could not be delivered.
    """
    return _of_letter(mail, terms) if isinstance(mail, Letter) else _of_any(mail, terms, blobs)


def _of_letter(letter: Letter, terms: Terms) -> Draft:
    message_id = _new_message_id(letter.from_email)
    content = codec.encode_letter(letter, message_id=message_id, date=terms.header_date)
    recipients = letter.recipients()
    return Draft(
        terms,
        message_id[:255],
        letter.subject[:255],
        letter.from_email[:320],
        addresses.bare(recipients[0])[:320],
        len(recipients),
        content,
        _fingerprint(content, terms),
    )


def _of_any(email: EmailMessage, terms: Terms, blobs: Writer) -> Draft:
    headers = {name.lower(): value for name, value in email.extra_headers.items()}
    given = headers.get("message-id")
    sender = characters(email.from_email)
    message_id = characters(given) if given else _new_message_id(sender)
    content = codec.encode(email, blobs, message_id=message_id, date=terms.date)
    if codec.renders_itself(email):
        message_id = codec.message_id(content)  # it may have written one of its own
    recipients = email.recipients()
    return Draft(
        terms,
        _shown(message_id, 255),
        _shown(characters(email.subject), 255),
        _shown(sender, 320),
        _shown(addresses.bare(recipients[0]), 320),
        len(recipients),
        content,
        _fingerprint(content, terms),
    )


def _fingerprint(content: str, terms: Terms) -> str:
    if terms.idempotency_key is None:
        return ""
    return codec.fingerprint(content, sensitive=terms.sensitive)


def _new_message_id(sender: str) -> str:
    """Return a Message-ID as unique as those of Python's ``make_msgid``, for a part of its cost.

    RFC 5322 3.6.4: the time, the process and 64 random bits to the left (a forked process has
    others), and the sender's domain to the right, since some servers distrust another one's. The
    time comes first, so that an index of them grows at one end.
    """
    domain = addresses.domain(sender) or str(DNS_NAME)
    return f"<{time.time_ns() // 1000}.{os.getpid()}.{_random.getrandbits(64)}@{domain}>"


def _shown(text: str, limit: int) -> str:
    """Return text as a column for looking can hold it: short, no NUL, no lone surrogate."""
    clean = text[:limit].replace("\x00", "\ufffd")
    return clean if clean.isascii() else clean.encode("utf-8", "replace").decode("utf-8")
