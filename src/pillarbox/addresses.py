"""The address part of a mailbox, as the rows and the search know it; pure."""

from __future__ import annotations

import re
from email.utils import parseaddr
from functools import lru_cache

ATOM = r"[A-Za-z0-9!#$%&'*+/^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
ADDR_SPEC = rf"{ATOM}(?:\.{ATOM})*@{_LABEL}(?:\.{_LABEL})*"
"""ASCII without "=" and "?", so that there is no encoded word to be looked into."""
MAX_CHARACTERS = 320
"""RFC 5321 4.5.3.1: a local part of 64, the @, a domain of 255; what a row's column holds."""
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f]")  # all of Unicode's Cc but the tab
_COMMENTS_MAX = 20
_is_addr_spec = re.compile(ADDR_SPEC).fullmatch


def characters(value: object) -> str:
    """Return text as exactly a `str`: a string's own characters, of anything else ``str(value)``.

    A subclass may write itself otherwise: ``str()`` of ``class Team(str, Enum)`` is "Team.OPS".
    """
    return str.__str__(value) if isinstance(value, str) else str(value)


# Of one recipient it is asked four times on its way from the row to the wire.
@lru_cache(maxsize=1024)
def is_plain(mailbox: str) -> bool:
    """Whether every parser reads the address as it stands, which is so of nearly all there are."""
    return _is_addr_spec(mailbox) is not None


def bare(mailbox: str) -> str:
    """Return ``user@example.org`` in lower case for ``User <User@Example.org>``.

    What cannot be parsed comes back as it is, in lower case: a row must name every recipient.
    """
    return _bare(characters(mailbox))


@lru_cache(maxsize=1024)
def _bare(text: str) -> str:
    if "<" in text or '"' in text or "(" in text:
        text = parseaddr(text)[1] or text
    return text.strip().lower()


@lru_cache(maxsize=256)
def domain(mailbox: str) -> str:
    """Return the domain of a mailbox in ASCII (IDNA), empty where it has none.

    Asked of senders alone, which are few: what was found is kept.
    """
    _, at, name = bare(mailbox).rpartition("@")
    if not at:
        return ""
    try:
        return name if name.isascii() else name.encode("idna").decode("ascii")
    except UnicodeError:
        return ""


def fault(mailbox: object) -> str | None:
    """Return what makes a mailbox one that no server could be told of, None where nothing does.

    Whether its syntax is right is not looked at: that is Django's to say.
    """
    text = characters(mailbox)
    found = _CONTROL.search(text)
    if found is not None:
        return f"holds the control character {found[0]!r}"
    if text.count("(") > _COMMENTS_MAX:
        return f"nests or repeats more than {_COMMENTS_MAX} comments"  # parsers recurse over them
    if len(text) > MAX_CHARACTERS and len(bare(text)) > MAX_CHARACTERS:
        return f"is longer than the {MAX_CHARACTERS} characters that an address can have"
    return None
