"""`EmailMessage` → the text of ``Message.content``: versioned JSON, pure ASCII, no pickle.

Only what differs from a new, empty message stands in it. JSON escapes what is not ASCII, so that
NULs and lone surrogates pass through every database's text column.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from email.headerregistry import Address, Group
from email.message import Message
from email.parser import BytesHeaderParser
from email.utils import format_datetime, formatdate
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.core.mail import DNS_NAME, EmailMessage, EmailMultiAlternatives, make_msgid
from django.utils.functional import Promise
from django.utils.timezone import get_current_timezone

from pillarbox import lines
from pillarbox.addresses import characters
from pillarbox.attachments import Writer
from pillarbox.codec.fingerprints import raw_digest
from pillarbox.codec.parts import pack_blob, pack_part
from pillarbox.codec.shapes import Shape, render, shape_of
from pillarbox.codec.values import as_object, pack
from pillarbox.compat import MODERN_MESSAGES
from pillarbox.exceptions import InvalidMessage, Uncarriable

VERSION = 1
INLINE_RAW_BYTES = 64 * 2**10

ADDRESS_LISTS = ("to", "cc", "bcc", "reply_to")
OPTIONS = ("content_subtype", "encoding", "mixed_subtype", "alternative_subtype")
_ANYMAIL = frozenset(
    {
        "envelope_sender",
        "esp_extra",
        "merge_data",
        "merge_global_data",
        "merge_headers",
        "merge_metadata",
        "metadata",
        "send_at",
        "tags",
        "template_id",
        "track_clicks",
        "track_opens",
    }
)
SHAPING = frozenset({"encoding", "mixed_subtype", "alternative_subtype", "recipients"})
"""Django's attributes that are seldom put on one message, and make it another than its class's."""
NO_ATTRIBUTES = SHAPING | {
    *("subject", "body", "from_email", "extra_headers", "attachments", "alternatives"),
    *(*ADDRESS_LISTS, *OPTIONS),
    # Of the sending process alone, or made anew by the next send.
    *("connection", "_connection", "anymail_status", "pillarbox"),
}
"""What a message has that is no attribute of somebody else's."""
_to_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


@dataclass(frozen=True, slots=True)
class Pins:
    """The two headers that Django would make anew each time it renders."""

    message_id: str
    date: str


def encode(email: EmailMessage, blobs: Writer, *, message_id: str, date: datetime) -> str:
    """Return the message as text, Message-ID and Date pinned in it; the bytes go into ``blobs``.

    ``email`` is only read. A header of its own for either, in any case, is kept instead. Its
    ``connection`` is not carried. Raise Uncarriable for what a row cannot hold, and whatever a
    class that renders itself raises.
    """
    blobs.begin()
    node = _pack_email(email, blobs, Pins(message_id, header_date(date)))
    return _to_json({"v": VERSION, **node})


def has_blobs(email: EmailMessage) -> bool:
    """Whether `encode` may put bytes into its writer, and so write rows."""
    alternatives = getattr(email, "alternatives", None) or ()
    has_messages = any(isinstance(item[0], EmailMessage | Message) for item in alternatives)
    return bool(email.attachments) or has_messages or shape_of(email).renders_itself


def header_date(moment: datetime) -> str:
    """Return the Date header: format as this version of Django does in ``message()``."""
    if not settings.EMAIL_USE_LOCALTIME:
        utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
        return _format_utc(utc.replace(microsecond=0))
    if not MODERN_MESSAGES:
        return formatdate(moment.timestamp(), localtime=True)
    return format_datetime(moment.astimezone(get_current_timezone()))


@lru_cache(maxsize=16)
def _format_utc(second: datetime) -> str:
    """Format a moment in UTC, once for all messages of that second."""
    return format_datetime(second) if MODERN_MESSAGES else formatdate(second.timestamp())


def _pack_email(email: EmailMessage, blobs: Writer, pins: Pins) -> dict[str, Any]:
    shape = shape_of(email)
    node: dict[str, Any] = {}
    if shape.base is EmailMultiAlternatives:
        node["class"] = "EmailMultiAlternatives"
    node["subject"] = _pack_header(email.subject, "subject")
    node["from_email"] = _pack_header(email.from_email, "from_email")
    for name in ADDRESS_LISTS:
        if addresses := getattr(email, name):
            node[name] = _pack_addresses(addresses, name)
    if shape.has_own_envelope:
        node["recipients"] = _pack_addresses(email.recipients(), "recipients()")
    if shape.renders_itself:
        return node | _pack_raw(email, blobs, pins)
    if email.body:
        node["body"] = pack(email.body, "body")
    _pack_headers(email, node, pins)
    _pack_options(email, shape, node)
    if attributes := pack_attributes(email, shape):
        node["attributes"] = attributes
    if alternatives := getattr(email, "alternatives", None):
        node["alternatives"] = [
            _pack_triple(item, f"alternatives[{n}]", 0, blobs, pins)
            for n, item in enumerate(alternatives)
        ]
    # Last, so that a message refused for another reason has written no bytes.
    if email.attachments:
        node["attachments"] = [
            _pack_attachment(item, f"attachments[{n}]", blobs, pins)
            for n, item in enumerate(email.attachments)
        ]
    return node


def _pack_addresses(addresses: Iterable[Any], name: str) -> list[Any]:
    if isinstance(addresses, str):
        raise InvalidMessage(f"{name} is the text {addresses!r}. Give a list: [{addresses!r}].")
    return [_pack_header(one, name) for one in addresses]


_HEADER_VALUES = (
    *(str, type(None), int, float, bytes, tuple, list),
    *(date, time, Address, Group),
)


def _pack_header(value: Any, where: str) -> Any:
    if isinstance(value, _HEADER_VALUES):
        return pack(value, where)
    return pack(str(value), where)  # as Django does with lazy text and whatever else it is given


def _pack_headers(email: EmailMessage, node: dict[str, Any], pins: Pins) -> None:
    headers = email.extra_headers
    own = {name.lower() for name in headers}
    if "message-id" not in own:
        node["message_id"] = pins.message_id
    if "date" not in own:
        node["date"] = pins.date
    if headers:
        node["headers"] = as_object(
            [
                (characters(name), _pack_header(value, f"headers[{name!r}]"))
                for name, value in _plain_headers(headers).items()
            ]
        )


def _plain_headers(headers: Mapping[str, Any]) -> Mapping[str, Any]:
    """Turn a mapping that ignores case into a dictionary in which Django finds the same."""
    if type(headers) is dict:
        return headers
    spelt = {name.lower(): name for name in ("From", "To", "Cc", "Reply-To") if name in headers}
    return {spelt.get(name.lower(), name): value for name, value in headers.items()}


def _pack_options(email: EmailMessage, shape: Shape, node: dict[str, Any]) -> None:
    for name in OPTIONS:
        value = getattr(email, name, None)
        if value != getattr(shape.base, name, None):
            node[name] = pack(value, name)


def has_attributes(email: EmailMessage) -> bool:
    """Whether something was put on this message that Django does not know."""
    return not NO_ATTRIBUTES.issuperset(vars(email))


def pack_attributes(email: EmailMessage, shape: Shape) -> dict[str, Any]:
    """Return what the message has beyond Django's attributes: Anymail's, a subclass', a user's."""
    if not shape.attributes and not has_attributes(email):
        return {}
    own = vars(email).keys() - NO_ATTRIBUTES
    inherited = shape.attributes - NO_ATTRIBUTES - own
    attributes = {}
    for name in sorted(own | inherited):
        value = getattr(email, name)
        if name.startswith("_") or _is_unset(value):
            continue
        try:
            attributes[name] = pack(value, name)
        except Uncarriable:
            # A class keeps all kinds of things; what was put on this message is meant to travel.
            if name in own or name in _ANYMAIL:
                raise
    return attributes


def _is_unset(value: Any) -> bool:
    anymail = sys.modules.get("anymail.utils")  # there if one of its messages is
    return anymail is not None and value is anymail.UNSET


def _pack_attachment(item: Any, where: str, blobs: Writer, pins: Pins) -> Any:
    if isinstance(item, Message):
        return {"$part": pack_part(item, blobs)}
    return _pack_triple(item, where, 1, blobs, pins)


def _pack_triple(item: Any, where: str, at: int, blobs: Writer, pins: Pins) -> list[Any]:
    """Pack (filename, content, mimetype) or (content, mimetype), the content being ``item[at]``."""
    return [
        _pack_content(value, where, blobs, pins, inline=at == 0) if n == at else pack(value, where)
        for n, value in enumerate(item)
    ]


def _pack_content(value: Any, where: str, blobs: Writer, pins: Pins, *, inline: bool) -> Any:
    if isinstance(value, EmailMessage):
        # A message of its own, though Django would give it another Message-ID at each rendering.
        own = Pins(make_msgid(domain=str(DNS_NAME)), pins.date)
        return {"$email": _pack_email(value, blobs, own)}
    if isinstance(value, Message):
        return {"$part": pack_part(value, blobs)}
    if isinstance(value, Promise):
        value = str(value)
    if value is None or isinstance(value, str | bytes | bytearray | memoryview):
        return pack(value, where) if inline else pack_blob(value, blobs)
    raise Uncarriable(
        f"{where} has a {type(value).__name__} as its content. Give text, bytes, "
        "an EmailMessage or an email.message.Message."
    )


def _pack_raw(email: EmailMessage, blobs: Writer, pins: Pins) -> dict[str, Any]:
    """Render a class that writes its own MIME, the pins in it, on a copy of the message.

    Line ends are made CRLF here, for mailers that hand the bytes on as they are.
    """
    twin = copy.copy(email)
    own = {name.lower() for name in email.extra_headers}
    missing = {"Date": pins.date, "Message-ID": pins.message_id}
    missing = {name: value for name, value in missing.items() if name.lower() not in own}
    twin.extra_headers = {**missing, **email.extra_headers}
    raw = lines.with_crlf(render(twin))
    # A class that does not build on Django's message() has left them out.
    rendered = BytesHeaderParser().parsebytes(raw)
    lacking = [f"{name}: {value}\r\n" for name, value in missing.items() if name not in rendered]
    raw = "".join(lacking).encode() + raw
    node: dict[str, Any] = {
        "message_id": str(rendered["Message-ID"] or pins.message_id).strip(),
        "date": str(rendered["Date"] or pins.date),
        "digest": raw_digest(raw),
    }
    if encoding := email.encoding:
        node["encoding"] = pack(encoding, "encoding")
    is_small = len(raw) <= INLINE_RAW_BYTES
    node["raw"] = raw.decode("latin-1") if is_small else pack_blob(raw, blobs)
    return node
