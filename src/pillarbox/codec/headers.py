"""What may not stand in a header, though some versions of Django let it through; pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.message import Message
from typing import Any

from django.core.mail import EmailMessage
from django.utils.functional import Promise

from pillarbox import addresses
from pillarbox.exceptions import InvalidMessage

_FORBIDDEN = re.compile("[\r\n\x00]")
_FORBIDDEN_READ = re.compile("[\r\n\x00\ud800-\udfff]")
_SUBTYPES = ("content_subtype", "mixed_subtype", "alternative_subtype")
_LISTS = ("to", "cc", "bcc", "reply_to")


def check(email: EmailMessage) -> None:
    """Raise InvalidMessage for a header that would be two, or for an address that is none.

    CR and LF end a header, and what follows is another one of the writer's choice (RFC 5322 2.2);
    NUL may stand in none (RFC 5322 4). Django refuses most of it, but not: a header's name, NUL, a
    line break at the end of a text (Django 6), a binary attachment's name or type (Django 5.2).
    """
    check_addresses(email)
    for where, text in _texts(email):
        found = _FORBIDDEN.search(text)
        if found is not None:
            raise InvalidMessage(
                f"{where} holds {found[0]!r}, which no header can. Take it out: "
                '" ".join(value.replace("\\0", "").split()).'
            )


def check_read(built: Message) -> None:
    """Raise ValueError for an encoded word (RFC 2047) that hides what no header can hold.

    Python reads those in a name of a file, a type and a subject, and writes some of them bare: of
    ``=?utf-8?q?a=0D=0AX-Evil:_b?=`` it makes another header.
    """
    for part in built.walk():
        for name, value in part.items():
            # Only Python's newer headers are read; the older ones may be folded.
            found = _FORBIDDEN_READ.search(value) if hasattr(value, "defects") else None
            if found is not None:
                raise ValueError(
                    f"the encoded words in the header {name!r} hold {found[0]!r}, which no header "
                    "can. Write them as text"
                )


def check_addresses(email: EmailMessage) -> None:
    """Raise InvalidMessage for the first address that no server could be told of."""
    for where, mailbox in _mailboxes(email):
        fault = addresses.fault(mailbox)
        if fault is not None:
            raise InvalidMessage(f'{where} {fault}. Pass "ada@example.org" or "Ada <…>".')


def _mailboxes(email: EmailMessage) -> Iterator[tuple[str, Any]]:
    yield "from_email", email.from_email
    for name in _LISTS:
        for number, mailbox in enumerate(getattr(email, name) or ()):
            yield f"{name}[{number}]", mailbox
    for number, mailbox in enumerate(email.recipients()):  # a class may compute its own
        yield f"recipients()[{number}]", mailbox


def _texts(email: EmailMessage) -> Iterator[tuple[str, str]]:
    for where, value in _values(email):
        if isinstance(value, str | Promise):
            yield where, addresses.characters(value)


def _values(email: EmailMessage) -> Iterator[tuple[str, Any]]:
    yield "subject", email.subject
    for name, value in email.extra_headers.items():
        yield f"The name of headers[{name!r}]", name
        yield f"headers[{name!r}]", value
    for name in _SUBTYPES:
        yield name, getattr(email, name, None)
    for number, item in enumerate(getattr(email, "alternatives", None) or ()):
        yield f"The type of alternatives[{number}]", item[1]
    for number, item in enumerate(email.attachments or ()):
        yield from _of_attachment(f"attachments[{number}]", item)


def _of_attachment(where: str, item: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(item, Message):
        for part in item.walk():
            # A value may be folded, and is then of several lines; a name never is.
            for name, _ in part.raw_items():
                yield f"The header {name!r} of {where}", name
        return
    yield f"The name of {where}", item[0]
    yield f"The type of {where}", item[2]
    if isinstance(item[1], EmailMessage):
        yield from _values(item[1])
