"""Shows what is in a message: text as text, HTML in a frame that runs and loads nothing."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from typing import Any

from django.core.mail import EmailMessage
from django.db import DEFAULT_DB_ALIAS

from pillarbox import codec
from pillarbox.addresses import bare
from pillarbox.attachments import BlobReader
from pillarbox.models import Message

logger = logging.getLogger("pillarbox.console")

FIELDS = ("to", "cc", "bcc")
LONGEST = 500_000
"""Characters of a body that are shown: a browser chokes on more before it says so."""

# The frame has the attribute `sandbox` too: no scripts, forms, plugins, or navigation by itself.
GUARD = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
    "style-src 'unsafe-inline'; img-src data:\">"
    '<meta http-equiv="x-dns-prefetch-control" content="off">'
    '<meta name="referrer" content="no-referrer">'
)


# Browsers open connections for <link rel=preconnect> whatever the policy says (seen in Chromium),
# in nested frames too. Without these elements nothing is lost that a preview would show.
FETCHING = re.compile(
    r"<(?=(?:base|embed|fencedframe|frame|frameset|iframe|link|meta|object|portal)[\s/>])",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Part:
    """One rendering of the body."""

    mimetype: str
    text: str

    @property
    def is_html(self) -> bool:
        """Whether it is shown in a frame."""
        return self.mimetype == "text/html"

    @property
    def document(self) -> str:
        """The HTML behind the guard, its elements that fetch made unknown ones."""
        return f"<!doctype html>{GUARD}{FETCHING.sub('<x-', self.text)}"


@dataclass
class Content:
    """What there is to see."""

    headers: list[tuple[str, str]] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    attachments: list[str] = field(default_factory=list)
    error: str = ""


class _NoBlobs:
    """Gives no attachment's bytes: a page that shows names need not load 25 MB."""

    def get(self, id: int) -> bytes:
        return b""


def is_shown(message: Message) -> bool:
    """Whether there is a content that somebody may see."""
    return not message.sensitive and not message.is_erased


def read(message: Message) -> Content:
    """Return the content to show. Raise nothing: what cannot be read is what one wants to see."""
    assert is_shown(message)
    try:
        email = _decoded(message)
        if isinstance(email, codec.RawMessage):
            # A large one stands in a blob as a whole.
            blobs = BlobReader(message._state.db or DEFAULT_DB_ALIAS)
            return _read_raw(codec.decode(message.content, blobs))
        return _read(email)
    except Exception as error:  # a row of another version, or one damaged
        logger.exception("The content of message %d cannot be read.", message.pk)
        return Content(error=f"{type(error).__name__}: {error}")


def addressees(message: Message) -> list[tuple[str, str]]:
    """Return the field and address of each recipient, as the content has them."""
    if message.is_erased:
        return []
    try:
        email = _decoded(message)
    except Exception:  # noqa: BLE001 - the page of a damaged message is still wanted
        return [("to", message.first_recipient)]
    found: dict[str, str] = {}
    for kind in FIELDS:
        for mailbox in filter(None, getattr(email, kind)):
            found.setdefault(bare(mailbox), kind)
    for mailbox in email.recipients():
        found.setdefault(bare(mailbox), "to")
    return [(kind, mailbox) for mailbox, kind in found.items()]


def _decoded(message: Message) -> EmailMessage:
    return codec.decode(message.content, _NoBlobs())


def _read(email: EmailMessage) -> Content:
    headers = [(name.capitalize(), ", ".join(map(str, getattr(email, name)))) for name in FIELDS]
    fixed = [("From", str(email.from_email)), *headers, ("Subject", str(email.subject))]
    reply_to = ("Reply-To", ", ".join(map(str, email.reply_to)))
    more = [(name, str(value)) for name, value in email.extra_headers.items()]
    content = Content(headers=[(k, v) for k, v in [*fixed, reply_to, *more] if v])
    content.parts.append(_part(f"text/{email.content_subtype}", email.body))
    for alternative in getattr(email, "alternatives", None) or []:
        content.parts.append(_part(str(alternative[1]), alternative[0]))
    content.attachments = [_name(attachment) for attachment in email.attachments]
    return content


def _part(mimetype: str, text: Any) -> Part:
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    return Part(mimetype.lower(), str(text)[:LONGEST])


def _name(attachment: Any) -> str:
    if isinstance(attachment, tuple):
        return f"{attachment[0] or '(no name)'} ({attachment[2] or 'application/octet-stream'})"
    return f"{attachment.get_filename() or '(no name)'} ({attachment.get_content_type()})"


def _read_raw(email: EmailMessage) -> Content:
    """Read a message that is carried as the bytes that its own class wrote."""
    assert isinstance(email, codec.RawMessage)
    mime = message_from_bytes(email.raw, policy=policy.default)
    content = Content(headers=[(name, str(value)) for name, value in mime.items()])
    for part in mime.walk():
        if part.is_multipart():
            continue
        if part.get_content_maintype() == "text" and not part.is_attachment():
            content.parts.append(_part(part.get_content_type(), part.get_content()))
        else:
            content.attachments.append(_name(part))
    return content
