"""What is wrong with a message, said at the call: a worker is never the first to find out."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.message import Message
from typing import Any, cast

from django.conf import settings
from django.core.mail import EmailMessage
from django.core.mail.backends import smtp as django_smtp

from pillarbox import addresses
from pillarbox.addresses import characters
from pillarbox.attachments import MemoryBlobs
from pillarbox.codec import headers
from pillarbox.codec.common import Letter, is_common, is_common_attachment
from pillarbox.codec.decoding import decode
from pillarbox.codec.encoding import encode, pack_attributes
from pillarbox.codec.shapes import Shape, build, octets, shape_of
from pillarbox.compat import MODERN_MESSAGES
from pillarbox.conf import get_settings
from pillarbox.exceptions import AttachmentTooLarge, InvalidMessage, PillarboxError, Uncarriable

_django_smtp: Any = django_smtp  # each version has but one of the two functions
_OPTIONS = ("encoding", "mixed_subtype", "alternative_subtype")
_is_hidden_end = re.compile(rb"(?m)^(?:\x00+\.\x00*|\.\x00+)\r$").search


def check(email: EmailMessage, *, smtp: bool = True, raw: bool = True) -> None:
    """Raise what sending the message would raise, and what queueing it could lose.

    The common shape is recognised in microseconds. Any other message is encoded, decoded and
    rendered once, in memory, and what Django raises comes through as it is (ValueError for a
    newline in a header, LookupError for a charset, and so on). With ``smtp`` the envelope is
    checked, too, as Django's SMTP backend does; without ``raw``, for a mailer that is not handed
    MIME but an API's request, a class that renders itself is refused.

    Raise AttachmentTooLarge, Uncarriable or another InvalidMessage for what is Pillarbox's own.
    """
    _check_size(email)
    shape = shape_of(email)
    if shape.renders_itself and not raw:
        raise Uncarriable(
            f"{type(email).__qualname__} writes its own MIME, which only an SMTP mailer can send. "
            "Queue it in a stream with an SMTP mailer, or send an EmailMessage."
        )
    if _is_common(email, shape):
        pack_attributes(email, shape)
    else:
        _rehearse(email, smtp=smtp)


def _check_size(email: EmailMessage) -> None:
    if not email.attachments:
        return
    limit = get_settings().attachments_limit_bytes
    size = _attachments_size(email)
    if size > limit:
        raise AttachmentTooLarge(
            f"attachments: {size:,} bytes are over the limit of {limit:,}. Send a link instead, "
            'or raise PILLARBOX["ATTACHMENTS"]["limit"].'
        )


def _attachments_size(email: EmailMessage) -> int:
    return sum(_size(item) for item in email.attachments or ())


def _size(item: Any) -> int:
    """Return the bytes of an attachment, or of its content."""
    if isinstance(item, str):
        return len(item.encode("utf-8", "surrogatepass"))
    if isinstance(item, bytes | bytearray | memoryview):
        return len(item)
    if isinstance(item, Message):
        payload = vars(item)["_payload"]
        return sum(_size(part) for part in payload) if isinstance(payload, list) else _size(payload)
    if isinstance(item, EmailMessage):
        return _attachments_size(item)
    return _size(item[1]) if isinstance(item, tuple | list) and len(item) == 3 else 0


def _is_common(email: EmailMessage, shape: Shape) -> bool:
    """Whether Django cannot but render and send this message."""
    return (
        not shape.renders_itself
        and not shape.has_own_envelope
        and all(getattr(email, name, None) == getattr(shape.base, name, None) for name in _OPTIONS)
        and is_common(_as_letter(email))
        and all(is_common_attachment(item) for item in email.attachments or ())
    )


def _as_letter(email: EmailMessage) -> Letter:
    """Return the fields, texts that are not there yet (lazy ones) as they will be."""
    return Letter(
        characters(email.subject),
        cast("str", email.body),
        characters(email.from_email),
        email.to,
        email.cc,
        email.bcc,
        email.reply_to,
        email.extra_headers,
        getattr(email, "alternatives", None) or (),
        email.content_subtype,
        False,
    )


def _rehearse(email: EmailMessage, *, smtp: bool) -> None:
    """Do in memory what caller and worker are going to do."""
    blobs = MemoryBlobs()
    try:
        email.recipients()
        content = encode(email, blobs, message_id="<check@localhost>", date=datetime.now(UTC))
        twin = _read(content, blobs)
        message = build(twin)
        _check_end(octets(message))
        if smtp:
            for address in (twin.from_email, *twin.recipients()):
                _prepare_address(address, twin)
        # Last, so that Django's own exceptions, which callers know, come first.
        if shape_of(email).renders_itself:
            headers.check_addresses(email)
        else:
            headers.check(email)
            headers.check_read(message)
    except Exception as error:
        error.add_note("Pillarbox found this before queueing the message; nothing was queued.")
        raise


def _read(content: str, blobs: MemoryBlobs) -> EmailMessage:
    """Decode what was just encoded. Raise ValueError for a part that cannot be made again."""
    try:
        return decode(content, blobs)
    except PillarboxError as error:
        if error.__cause__ is None:
            raise
        raise ValueError(f"it cannot be carried: {error.__cause__}") from error


def _check_end(rendered: bytes) -> None:
    """Raise InvalidMessage for a line that a server which drops NULs takes for the final dot."""
    if _is_hidden_end(rendered):
        raise InvalidMessage(
            "body, html or attachments: a line is nothing but a dot and NUL characters, which some "
            'servers take for the end of the message. Take them out: value.replace("\0", "").'
        )


def _prepare_address(address: Any, email: EmailMessage) -> None:
    """Do as Django's SMTP backend does with an address of the envelope."""
    if MODERN_MESSAGES:
        # A method that asks nothing of its backend, and a backend is not to be had without options.
        _django_smtp.EmailBackend.prep_address(None, address)
    else:
        _django_smtp.sanitize_address(address, email.encoding or settings.DEFAULT_CHARSET)
        # It makes an encoded word of it, which is another mailbox; Django 6 refuses it.
        if not addresses.bare(address).rpartition("@")[0].isascii():
            raise ValueError(f"Invalid address {address!r}: local-part contains non-ASCII")
