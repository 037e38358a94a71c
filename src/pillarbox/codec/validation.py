"""What is wrong with a message, said at the call: a worker is never the first to find out."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.message import Message
from typing import Any

from django.conf import settings
from django.core.mail import EmailAlternative, EmailMessage, EmailMultiAlternatives
from django.core.mail.backends import smtp as django_smtp

from pillarbox import addresses
from pillarbox.addresses import ADDR_SPEC, ATOM
from pillarbox.attachments import MemoryBlobs
from pillarbox.codec import headers
from pillarbox.codec.decoding import decode
from pillarbox.codec.encoding import ADDRESS_LISTS, encode, has_attributes, pack_attributes
from pillarbox.codec.shapes import Shape, render, shape_of
from pillarbox.compat import MODERN_MESSAGES
from pillarbox.conf import get_settings
from pillarbox.exceptions import AttachmentTooLarge, InvalidMessage, Uncarriable

_django_smtp: Any = django_smtp  # each version has but one of the two functions
_DJANGO_CLASSES = frozenset({EmailMessage, EmailMultiAlternatives})
_OPTIONS = ("encoding", "mixed_subtype", "alternative_subtype")
# No "=" and "?" here either.
_NAME = rf'(?:{ATOM}(?: {ATOM})*|"[ !#-<>@-\[\]-~]+")'
_is_common_address = re.compile(rf"{ADDR_SPEC}|{_NAME} <{ADDR_SPEC}>").fullmatch
_is_common_subtype = re.compile(r"[a-z0-9.+-]+").fullmatch
_is_text_type = re.compile(r"text/[a-z0-9.+-]+").fullmatch
_is_binary_type = re.compile(r"(?:application|audio|font|image|video)/[A-Za-z0-9.+-]+").fullmatch
_is_header_name = re.compile(r"[A-Za-z0-9-]+").fullmatch
_is_hidden_end = re.compile(rb"(?m)^(?:\x00+\.\x00*|\.\x00+)\r$").search
# Those that Python's `email` parses, and that can therefore be wrong.
_is_structured = re.compile(
    r"bcc|cc|content-.*|date|from|message-id|mime-version|orig-date|reply-to|resent-.*|sender"
    r"|subject|to",
    re.IGNORECASE,
).fullmatch


def check(email: EmailMessage, *, smtp: bool = True, raw: bool = True) -> bool:
    """Raise what sending the message would raise, and what queueing it could lose.

    Return whether the message is inert, nothing but text in one of Django's own classes: to encode
    it runs nobody's code, and so makes no query.

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
    if not _is_common(email, shape):
        _rehearse(email, smtp=smtp)
        return False
    pack_attributes(email, shape)
    return _is_inert(email)


def _is_inert(email: EmailMessage) -> bool:
    """Whether a message of the common shape has neither bytes nor anything of its own."""
    return (
        type(email) in _DJANGO_CLASSES
        and not email.attachments
        and not has_attributes(email)
        and isinstance(email.subject, str)
        and isinstance(email.from_email, str)
        and type(email.extra_headers) is dict  # another kind may ignore case
    )


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
        and _has_common_options(email, shape)
        and _is_line(str(email.subject))
        and isinstance(email.body, str)
        and _is_encodable(email.body)
        and _is_plain_address(str(email.from_email))
        and all(_are_common_addresses(getattr(email, name)) for name in ADDRESS_LISTS)
        and _are_common_headers(email.extra_headers)
        and all(_is_common_alternative(item) for item in getattr(email, "alternatives", None) or ())
        and all(_is_common_attachment(item) for item in email.attachments or ())
    )


def _has_common_options(email: EmailMessage, shape: Shape) -> bool:
    return (
        settings.DEFAULT_CHARSET == "utf-8"
        and _is_common_subtype(email.content_subtype) is not None
        and all(getattr(email, name, None) == getattr(shape.base, name, None) for name in _OPTIONS)
    )


def _is_line(text: str) -> bool:
    return text.isprintable()  # no separator but the blank, no control, no lone surrogate


def _is_encodable(text: str) -> bool:
    if "\x00" in text:  # may hide the end of the message
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _are_common_addresses(mailboxes: Any) -> bool:
    return isinstance(mailboxes, list) and (
        not mailboxes or all(isinstance(one, str) and _is_plain_address(one) for one in mailboxes)
    )


def _is_plain_address(mailbox: str) -> bool:
    return len(mailbox) <= addresses.MAX_CHARACTERS and _is_common_address(mailbox) is not None


def _are_common_headers(headers: Any) -> bool:
    return isinstance(headers, dict) and (
        not headers or all(_is_common_header(name, value) for name, value in headers.items())
    )


def _is_common_header(name: Any, value: Any) -> bool:
    return (
        isinstance(value, str)
        and _is_line(value)
        and _is_header_name(name) is not None
        and not _is_structured(name)
    )


def _is_common_alternative(item: Any) -> bool:
    return (
        isinstance(item, EmailAlternative)
        and isinstance(item.content, str)
        and _is_text_type(item.mimetype) is not None
        and _is_encodable(item.content)
    )


def _is_common_attachment(item: Any) -> bool:
    if not isinstance(item, tuple) or len(item) != 3:
        return False
    filename, content, mimetype = item
    if not isinstance(mimetype, str) or not _is_common_filename(filename):
        return False
    if isinstance(content, str):
        return _is_text_type(mimetype) is not None and _is_encodable(content)
    return isinstance(content, bytes) and _is_binary_type(mimetype) is not None


def _is_common_filename(filename: Any) -> bool:
    if filename is None:
        return True
    return isinstance(filename, str) and _is_line(filename) and not {'"', "\\"} & set(filename)


def _rehearse(email: EmailMessage, *, smtp: bool) -> None:
    """Do in memory what caller and worker are going to do."""
    blobs = MemoryBlobs()
    try:
        email.recipients()
        content = encode(email, blobs, message_id="<check@localhost>", date=datetime.now(UTC))
        twin = decode(content, blobs)
        _check_end(render(twin))
        if smtp:
            for address in (twin.from_email, *twin.recipients()):
                _prepare_address(address, twin)
        # Last, so that Django's own exceptions, which callers know, come first.
        (headers.check_addresses if shape_of(email).renders_itself else headers.check)(email)
    except Exception as error:
        error.add_note("Pillarbox found this before queueing the message; nothing was queued.")
        raise


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
