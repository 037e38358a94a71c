"""What is to be written of a message: the values of its row that its caller decides; no queries."""

from __future__ import annotations

from datetime import datetime
from email.utils import make_msgid
from typing import Any, NamedTuple

from django.core.mail import EmailMessage
from django.core.mail.utils import DNS_NAME

from pillarbox import addresses, codec
from pillarbox.attachments import Writer
from pillarbox.models import Priority
from pillarbox.models.clock import host_now
from pillarbox.outbox.options import Options


class Draft(NamedTuple):
    """The values of a row under its columns' names; all the others are as in every new row."""

    stream: str
    priority: Priority
    due_at: datetime | None
    """None: the moment of the INSERT, by the database's clock."""
    expires_at: datetime | None
    in_doubt: str
    using: str
    message_id: str
    date: datetime
    subject: str
    from_email: str
    first_recipient: str
    recipient_count: int
    content: str
    idempotency_key: str | None
    fingerprint: str
    tags: list[str]
    metadata: dict[str, Any]
    sensitive: bool


def draft(email: EmailMessage, options: Options, blobs: Writer, *, is_inert: bool = False) -> Draft:
    """Encode a message that was checked; the bytes of its attachments go into ``blobs``.

    ``is_inert`` is what `pillarbox.codec.check` has said: then this makes no query.
    Raise InvalidMessage for what could not be delivered.
    """
    now = host_now()
    send_at, expires_at = options.schedule(now)
    date = max(now, send_at) if send_at else now
    if is_inert:
        message_id = make_msgid(domain=_domain_of(email))
        content = codec.encode_inert(email, message_id=message_id, date=date)
    else:
        message_id, content = _encode(email, blobs, date)
    recipients = email.recipients()
    key, sensitive = options.idempotency_key, options.is_sensitive
    return Draft(
        stream=options.stream,
        priority=options.priority_number,
        due_at=send_at,
        expires_at=expires_at,
        in_doubt=options.in_doubt or "",
        using=options.using,
        message_id=_shown(message_id, 255),
        date=date,
        subject=_shown(str(email.subject), 255),
        from_email=_shown(str(email.from_email), 320),
        first_recipient=_shown(addresses.bare(recipients[0]), 320),
        recipient_count=len(recipients),
        content=content,
        idempotency_key=key,
        fingerprint="" if key is None else codec.fingerprint(content, sensitive=sensitive),
        tags=list(options.tags),
        metadata=dict(options.metadata or {}),
        sensitive=sensitive,
    )


def _encode(email: EmailMessage, blobs: Writer, date: datetime) -> tuple[str, str]:
    headers = {name.lower(): value for name, value in email.extra_headers.items()}
    given = headers.get("message-id")
    message_id = str(given) if given else make_msgid(domain=_domain_of(email))
    content = codec.encode(email, blobs, message_id=message_id, date=date)
    if codec.renders_itself(email):
        message_id = codec.message_id(content)  # it may have written one of its own
    return message_id, content


def _domain_of(email: EmailMessage) -> str:
    """Return the sender's domain, since some servers distrust a Message-ID of another one."""
    return addresses.domain(str(email.from_email)) or str(DNS_NAME)


def _shown(text: str, limit: int) -> str:
    """Return text as a column for looking can hold it: short, no NUL, no lone surrogate."""
    clean = text[:limit].replace("\x00", "\ufffd")
    return clean if clean.isascii() else clean.encode("utf-8", "replace").decode("utf-8")
