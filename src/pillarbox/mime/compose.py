"""A message of Django's to wire bytes: structure, header order and which shapes are known; pure."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from email.message import Message
from functools import lru_cache
from typing import Any, TypeVar, cast

from django.conf import settings
from django.core.mail import EmailMessage, EmailMultiAlternatives

from pillarbox.compat import MODERN_MESSAGES
from pillarbox.mime import bodies, headers

T = TypeVar("T")
Part = tuple[str, Sequence[bytes]]
"""The fields that describe a body (Content-…), and the body in pieces, which are joined once."""

_is_token = re.compile(r"[a-z0-9][a-z0-9.+-]*").fullmatch
_is_type = re.compile(r"[A-Za-z]+/[A-Za-z0-9][A-Za-z0-9.+-]*").fullmatch
_is_line = re.compile(r"[ -~]{1,900}").fullmatch
_folding = re.compile(r"; (?=[^ ])")  # no line of blanks alone


class _Unknown(Exception):
    """A shape that is left to Django's own rendering."""


def compose(email: EmailMessage, *, eight_bit: bool) -> bytes | None:
    """Return the message in wire bytes, or None where Django's own rendering must do it.

    ``email`` has Date and Message-ID among its ``extra_headers``, as the codec's messages do;
    ``eight_bit`` says that the server announced 8BITMIME (RFC 6152). Raises nothing of its own.
    """
    if type(email) not in _KNOWN or settings.DEFAULT_CHARSET != "utf-8":
        return None
    if (email.encoding or "utf-8") != "utf-8":
        return None
    try:
        fields, pieces = _content(email, eight_bit)
        head = f"{fields}MIME-Version: 1.0\r\n{_head(email)}\r\n"
    except _Unknown:
        return None
    return b"".join((head.encode("ascii"), *pieces))


_KNOWN = {EmailMessage, EmailMultiAlternatives}


def _known(value: T | None) -> T:
    if value is None:
        raise _Unknown
    return value


def _head(email: EmailMessage) -> str:
    """Return the header fields of the message itself, in Django's order."""
    own = email.extra_headers
    kinds = headers.kinds(tuple(own))
    if kinds is None:
        raise _Unknown
    fields = [
        headers.unstructured("Subject", str(email.subject)),
        headers.addresses("From", [email.from_email]),
    ]
    if email.to:
        fields.append(headers.addresses("To", email.to))
    if email.cc:
        fields.append(headers.addresses("Cc", email.cc))
    if email.reply_to:
        fields.append(headers.addresses("Reply-To", email.reply_to))
    fields += map(headers.extra, kinds, own, own.values())
    if None in fields:
        raise _Unknown
    return "".join(cast("list[str]", fields))


def _content(email: EmailMessage, eight_bit: bool) -> Part:
    if MODERN_MESSAGES and (
        hasattr(email, "mixed_subtype") or hasattr(email, "alternative_subtype")
    ):
        raise _Unknown
    part = _bodies(email, eight_bit)
    if not email.attachments:
        return _known(part)
    parts = [] if part is None else [part]
    parts += [_attachment(item, eight_bit) for item in email.attachments]
    return _multipart(getattr(email, "mixed_subtype", "mixed"), parts)


def _bodies(email: EmailMessage, eight_bit: bool) -> Part | None:
    """Return text and alternatives; None where there is neither and an attachment is all."""
    alternatives = getattr(email, "alternatives", None)
    if not alternatives:
        if not email.body and email.attachments:
            return None
        return _text(email.body, email.content_subtype, eight_bit)
    parts = [_text(email.body, email.content_subtype, eight_bit)] if email.body else []
    parts += [_typed(content, mimetype, eight_bit, "") for content, mimetype in alternatives]
    return _multipart(getattr(email, "alternative_subtype", "alternative"), parts)


def _text(value: Any, subtype: Any, eight_bit: bool, extra: str = "") -> Part:
    if not isinstance(value, str) or not isinstance(subtype, str):
        raise _Unknown
    body = bodies.text(value, eight_bit=eight_bit, ends_line=MODERN_MESSAGES)
    fields = None if body is None else _text_fields(subtype, body[1])
    if body is None or fields is None:
        raise _Unknown
    return fields + extra, body[:1]


@lru_cache(maxsize=64)
def _text_fields(subtype: str, encoding: str) -> str | None:
    if not _is_token(subtype):
        return None
    return _fields(f'text/{subtype}; charset="utf-8"', encoding)


def _fields(content_type: str, encoding: str) -> str:
    return f"Content-Type: {content_type}\r\nContent-Transfer-Encoding: {encoding}\r\n"


def _typed(content: Any, mimetype: Any, eight_bit: bool, extra: str) -> Part:
    if not isinstance(mimetype, str):
        raise _Unknown
    parsed = _parsed(mimetype)
    if parsed is None:
        raise _Unknown
    main, subtype = parsed
    if main == "text":
        return _text(content, subtype, eight_bit, extra)
    if not isinstance(content, bytes) or main.lower() in {"text", "message", "multipart"}:
        raise _Unknown
    encoded, encoding = bodies.binary(content)
    return _fields(mimetype, encoding) + extra, (encoded,)


@lru_cache(maxsize=64)
def _parsed(mimetype: str) -> tuple[str, str] | None:
    main, _, subtype = mimetype.partition("/")
    return (main, subtype) if _is_type(mimetype) else None


def _attachment(item: Any, eight_bit: bool) -> Part:
    if isinstance(item, Message):
        return _ready_made(item)
    if not isinstance(item, tuple) or len(item) != 3:
        raise _Unknown
    filename, content, mimetype = item
    if not filename and not MODERN_MESSAGES:
        return _typed(content, mimetype, eight_bit, "")  # Django 5.2 says nothing of a nameless one
    if filename == "" or not isinstance(filename or "", str):
        raise _Unknown
    return _typed(
        content, mimetype, eight_bit, _known(headers.disposition("attachment", filename or ""))
    )


def _ready_made(part: Message[Any, Any]) -> Part:
    """Return a leaf that the caller made (an inline image, say), field by field as it is."""
    payload = vars(part)["_payload"]
    encoding = str(part.get("Content-Transfer-Encoding", "")).lower()
    if not isinstance(payload, str) or encoding not in {"base64", "quoted-printable"}:
        raise _Unknown
    fields = []
    for name, value in part.raw_items():
        text = str(value)
        if not _is_line(f"{name}: {text}") or "=?" in text:
            raise _Unknown
        if name.lower() != "mime-version":
            fields.append(_folding.sub(";\r\n ", f"{name}: {text}") + "\r\n")
    content, transfer = _known(bodies.text(payload, eight_bit=False, ends_line=False))
    if transfer != "7bit":
        raise _Unknown
    return "".join(fields), (content,)


def _multipart(subtype: Any, parts: Sequence[Part]) -> Part:
    """Join parts (RFC 2046 section 5.1.1) by a boundary that nobody can guess."""
    if not isinstance(subtype, str) or not _is_token(subtype):
        raise _Unknown
    boundary = f"=_{os.urandom(12).hex()}"
    start = f"--{boundary}\r\n"
    pieces: list[bytes] = []
    for fields, content in parts:
        pieces += (f"{start}{fields}\r\n".encode("ascii"), *content)
        start = f"\r\n--{boundary}\r\n"
    pieces.append(f"\r\n--{boundary}--\r\n".encode("ascii"))
    return f'Content-Type: multipart/{subtype};\r\n boundary="{boundary}"\r\n', pieces
