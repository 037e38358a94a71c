"""Header fields as RFC 5322 and RFC 2231 ask, from the values that Django is given; pure.

Every function returns None for a value that Django must judge.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, cast
from urllib.parse import quote

from pillarbox.addresses import MAX_CHARACTERS, is_plain
from pillarbox.mime.words import (
    ENCODED_LINE_CHARS,
    LINE_CHARS,
    WORD_CHARS,
    WORD_MIN_CHARS,
    encoded_words,
    fold,
)

MAX_OCTETS = 998
_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_LABEL = r"[^\W_](?:[\w-]{0,61}[^\W_])?"
_ADDRESS = rf"{_ATEXT}+(?:\.{_ATEXT}+)*@(?:{_LABEL}\.)*{_LABEL}"
_bare = re.compile(_ADDRESS).fullmatch
_named = re.compile(rf'(?:"([^"\\<>]+)"|([^"\\<>()\[\],;:@]+?)) <({_ADDRESS})>').fullmatch
_is_ascii_phrase = re.compile(rf"{_ATEXT}+(?: {_ATEXT}+)*").fullmatch
_is_name = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,60}").fullmatch
_is_message_id = re.compile(rf"<{_ATEXT}+(?:\.{_ATEXT}+)*@[A-Za-z0-9.-]+>").fullmatch
_is_date = re.compile(
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d (?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
    r" \d{4} \d\d:\d\d:\d\d [+-]\d{4}",
    re.ASCII,
).fullmatch
# What Python parses, and what stands elsewhere in the message already.
_is_special = re.compile(
    r"bcc|cc|content-.*|from|mime-version|orig-date|reply-to|resent-.*|sender|subject|to"
    r"|in-reply-to|references",
    re.IGNORECASE,
).fullmatch

_NEEDED = {"date", "message-id"}


def unstructured(name: str, value: str) -> str | None:
    """Return the field for a text (RFC 5322 section 2.2.1)."""
    if value.isascii() and value.isprintable() and len(name) + 2 + len(value) <= LINE_CHARS:
        is_plain_text = "=?" not in value and value.strip(" ") == value
        return f"{name}: {value}\r\n" if is_plain_text else None
    return _long_or_foreign(name, value)


@lru_cache(maxsize=256)
def _long_or_foreign(name: str, value: str) -> str | None:
    is_printable = value.replace("\xa0", "").isprintable()
    if not is_printable or "=?" in value or value != value.strip(" "):
        return None
    if value.isascii():
        return _within_limits(fold(name, value.split(" "), LINE_CHARS))
    limit = min(WORD_CHARS, ENCODED_LINE_CHARS - len(name) - 2)
    if limit < WORD_MIN_CHARS:
        return None
    return _within_limits(fold(name, _partly_encoded(value, limit), ENCODED_LINE_CHARS))


def _within_limits(field: str) -> str | None:
    """Return the field if no line is too long (RFC 5322 section 2.1.1, RFC 2047 section 2)."""
    for line in field.split("\r\n"):
        if len(line) > (ENCODED_LINE_CHARS if "=?" in line else MAX_OCTETS):
            return None
    return field


def _partly_encoded(value: str, limit: int) -> Iterable[str]:
    """Leave the ASCII words before and behind the others as they are, to be read by people."""
    words = value.split(" ")
    foreign = [n for n, word in enumerate(words) if not word.isascii()]
    first, last = foreign[0], foreign[-1] + 1
    return [*words[:first], *encoded_words(" ".join(words[first:last]), limit), *words[last:]]


def addresses(name: str, mailboxes: Sequence[Any]) -> str | None:
    """Return the field of an address list (RFC 5322 section 3.4), one line each where too long."""
    if len(mailboxes) == 1 and type(one := mailboxes[0]) is str and is_plain(one):
        line = f"{name}: {one}\r\n"  # nearly always
        if len(line) <= LINE_CHARS + 2:
            return line
    written = [_written(one) for one in mailboxes]
    if None in written:
        return None
    found = cast("list[str]", written)
    line = f"{name}: {', '.join(found)}\r\n"
    if len(line) <= (ENCODED_LINE_CHARS if "=?" in line else LINE_CHARS) + 2:
        return line
    room = ENCODED_LINE_CHARS - len(f"{name}: ,")
    lines = [one.replace("?= <", "?=\r\n <") if len(one) > room else one for one in found]
    return _within_limits(f"{name}: " + ",\r\n ".join(lines) + "\r\n")


def _written(mailbox: Any) -> str | None:
    if not isinstance(mailbox, str) or len(mailbox) > MAX_CHARACTERS:
        return None
    return mailbox if is_plain(mailbox) else _mailbox(mailbox)


@lru_cache(maxsize=1024)
def _mailbox(mailbox: str) -> str | None:
    if not mailbox.isprintable() or "=?" in mailbox:
        return None
    if _bare(mailbox):
        return _with_ascii_domain(mailbox)
    found = _named(mailbox)
    if found is None:
        return None
    quoted, phrase, address = found.groups()
    address = _with_ascii_domain(address)
    display = quoted or phrase
    if address is None or display != display.strip():
        return None
    if not display.isascii():
        words = encoded_words(display)
        # Some readers, Python's among them, see a blank between two encoded words of one name.
        return f"{words[0]} <{address}>" if len(words) == 1 else None
    if quoted is None and _is_ascii_phrase(phrase):
        return f"{phrase} <{address}>"
    return None if "  " in display else f'"{display}" <{address}>'  # "Acme Inc." needs quotes


def envelope(mailbox: Any) -> str | None:
    """Return the bare address for MAIL and RCPT, its domain in ASCII (IDNA)."""
    if not isinstance(mailbox, str) or len(mailbox) > MAX_CHARACTERS:
        return None
    return mailbox if is_plain(mailbox) else _envelope(mailbox)


@lru_cache(maxsize=1024)
def _envelope(mailbox: str) -> str | None:
    if not mailbox.isprintable():
        return None
    found = None if "=?" in mailbox else _bare(mailbox) or _named(mailbox)
    return None if found is None else _with_ascii_domain(found[found.lastindex or 0])


def _with_ascii_domain(address: str) -> str | None:
    if address.isascii():
        return address
    local, _, domain = address.rpartition("@")
    try:
        return f"{local}@{domain.encode('idna').decode('ascii')}"
    except UnicodeError:
        return None


@lru_cache(maxsize=256)
def kinds(names: tuple[Any, ...]) -> tuple[str, ...] | None:
    """Return what each field is that a message brings along: ``date``, ``message-id``, ``text``.

    None where one is missing that Django would make anew, or is there twice, or is of those that
    stand elsewhere. Most messages have the same fields, whose names are judged once.
    """
    if not all(isinstance(name, str) and _is_name(name) for name in names):
        return None
    found = [name.lower() for name in names]
    if not _NEEDED.issubset(found) or len(set(found)) != len(found):
        return None
    if any(_is_special(name) for name in found if name not in _NEEDED):
        return None
    return tuple(name if name in _NEEDED else "text" for name in found)


def extra(kind: str, name: str, value: Any) -> str | None:
    """Return a field that the message brings along, whose kind `kinds` has found."""
    if not isinstance(value, str):
        return None
    if kind == "text":
        return unstructured(name, value)
    if kind == "date":
        return _date(name, value)
    return f"{name}: {value}\r\n" if _is_message_id(value) and len(value) < 256 else None


# A thousand mails that were queued in one second have the same.
@lru_cache(maxsize=64)
def _date(name: str, value: str) -> str | None:
    return f"{name}: {value}\r\n" if _is_date(value) else None


def disposition(kind: str, filename: str) -> str | None:
    """Return Content-Disposition (RFC 2183), the filename by RFC 2231 where it is not ASCII."""
    if not filename.isprintable() or '"' in filename or "\\" in filename or "=?" in filename:
        return None
    start = f"Content-Disposition: {kind}"
    if not filename:
        return f"{start}\r\n"
    if filename.isascii():
        if len(filename) > MAX_OCTETS // 2 or filename != filename.strip():
            return None
        blank = " " if len(start) + len(filename) + 13 <= LINE_CHARS else "\r\n "
        return f'{start};{blank}filename="{filename}"\r\n'
    escaped = quote(filename, safe="!#$&+-.^_`|~")
    if len(escaped) <= 60:
        return f"{start};\r\n filename*=utf-8''{escaped}\r\n"
    return f"{start}{''.join(_sections(filename))}\r\n"


def _sections(filename: str) -> Iterable[str]:
    """Divide a long filename (RFC 2231 section 3), no character divided."""
    for n, start in enumerate(range(0, len(filename), 4)):
        charset = "utf-8''" if n == 0 else ""
        yield f";\r\n filename*{n}*={charset}{quote(filename[start : start + 4], safe='')}"
