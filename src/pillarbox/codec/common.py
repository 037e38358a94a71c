"""The common shape of a message: what Django cannot but render and send; pure but for settings.

Whatever is not of it is rendered once at the call, by `pillarbox.codec.validation`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from django.conf import settings
from django.core.mail import EmailAlternative

from pillarbox import addresses
from pillarbox.addresses import ADDR_SPEC, ATOM

# No "=" and "?" here either.
_NAME = rf'(?:{ATOM}(?: {ATOM})*|"[ !#-<>@-\[\]-~]+")'
_matches_mailbox = re.compile(rf"{ADDR_SPEC}|{_NAME} <{ADDR_SPEC}>").fullmatch
# What they say is kept by a text's hash, which a subclass of `str` may lack: ask for a `str` alone.
_matches_subtype = lru_cache(maxsize=64)(re.compile(r"[a-z0-9.+-]+").fullmatch)
_matches_text_type = lru_cache(maxsize=64)(re.compile(r"text/[a-z0-9.+-]+").fullmatch)
_matches_binary_type = re.compile(
    r"(?:application|audio|font|image|video)/[A-Za-z0-9.+-]+"
).fullmatch
_matches_header_name = re.compile(r"[A-Za-z0-9-]+").fullmatch
# Those that Python's `email` parses, and that can therefore be wrong.
_is_structured = re.compile(
    r"bcc|cc|content-.*|date|from|message-id|mime-version|orig-date|reply-to|resent-.*|sender"
    r"|subject|to",
    re.IGNORECASE,
).fullmatch
_EMPTY_NAME_MAX = 70
"""Python's `email` fails to fold a header without a value whose name fills a line of 78."""


class Letter(NamedTuple):
    """The fields of a message that are text or made of text, as Django's classes hold them."""

    subject: str
    body: str
    from_email: str
    to: Sequence[str]
    cc: Sequence[str]
    bcc: Sequence[str]
    reply_to: Sequence[str]
    headers: dict[str, str]
    alternatives: Sequence[tuple[Any, str]]
    content_subtype: str
    has_alternatives: bool
    """Whether it is of the class that can have them."""

    def recipients(self) -> list[str]:
        """Return the envelope's, as Django computes them from addresses none of which is empty."""
        return [*self.to, *self.cc, *self.bcc]


def is_common(letter: Letter) -> bool:
    """Whether all the fields are of the common shape."""
    return (
        settings.DEFAULT_CHARSET == "utf-8"
        and _is_line(letter.subject)
        and isinstance(letter.body, str)
        and _is_encodable(letter.body)
        and _is_sender(letter.from_email)
        and _are_addresses(letter.to)
        and _are_addresses(letter.cc)
        and _are_addresses(letter.bcc)
        and _are_addresses(letter.reply_to)
        and type(letter.content_subtype) is str
        and _matches_subtype(letter.content_subtype) is not None
        and _are_headers(letter.headers)
        and _are_alternatives(letter.alternatives)
    )


def _is_line(text: str) -> bool:
    # No separator but the blank, no control, no lone surrogate; nor what may be read as one.
    return text.isprintable() and "=?" not in text


def _is_encodable(text: str) -> bool:
    if "\x00" in text:  # may hide the end of the message
        return False
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _are_addresses(mailboxes: Any) -> bool:
    if not isinstance(mailboxes, list):
        return False
    # Most often there is one, or none: that is seen sooner than a generator is made.
    for mailbox in mailboxes:
        if not isinstance(mailbox, str) or not _is_address(mailbox):
            return False
    return True


def _is_address(mailbox: str) -> bool:
    if len(mailbox) > addresses.MAX_CHARACTERS or _matches_mailbox(mailbox) is None:
        return False
    return "(" not in mailbox or addresses.fault(mailbox) is None


_is_sender = lru_cache(maxsize=256)(_is_address)
"""Senders are few, and each writes many messages."""


def _are_headers(headers: Any) -> bool:
    return isinstance(headers, dict) and (
        not headers or all(_is_header(name, value) for name, value in headers.items())
    )


def _is_header(name: Any, value: Any) -> bool:
    return (
        isinstance(value, str)
        and isinstance(name, str)
        and _is_line(value)
        and _matches_header_name(name) is not None
        and not _is_structured(name)
        and (value != "" or len(name) <= _EMPTY_NAME_MAX)
    )


def _are_alternatives(alternatives: Any) -> bool:
    return isinstance(alternatives, tuple | list) and all(map(_is_alternative, alternatives))


def _is_alternative(item: Any) -> bool:
    return (
        isinstance(item, EmailAlternative)
        and isinstance(item.content, str)
        and type(item.mimetype) is str
        and _matches_text_type(item.mimetype) is not None
        and _is_encodable(item.content)
    )


def is_common_attachment(item: Any) -> bool:
    """Whether an attachment is of the common shape."""
    if not isinstance(item, tuple) or len(item) != 3:
        return False
    filename, content, mimetype = item
    if type(mimetype) is not str or not _is_filename(filename):
        return False
    if isinstance(content, str):
        return _matches_text_type(mimetype) is not None and _is_encodable(content)
    return isinstance(content, bytes) and _matches_binary_type(mimetype) is not None


def _is_filename(filename: Any) -> bool:
    if filename is None:
        return True
    return isinstance(filename, str) and _is_line(filename) and not {'"', "\\"} & set(filename)
