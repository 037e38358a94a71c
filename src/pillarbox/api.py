"""The calls that queue mail; each writes in the caller's transaction and returns at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from asgiref.sync import sync_to_async
from django.core.mail import EmailMessage
from django.utils.functional import Promise

from pillarbox.models import Message
from pillarbox.outbox import Options, enqueue_many
from pillarbox.outbox.content import Content
from pillarbox.outbox.enqueue import enqueue_content

Priority = Literal["high", "normal", "low"]
Moment = datetime | timedelta


def send_email(
    subject: str | Promise,
    body: str | Promise,
    recipient_list: Iterable[str],
    *,
    from_email: str | None = None,
    html: str | None = None,
    cc: Iterable[str] = (),
    bcc: Iterable[str] = (),
    reply_to: Iterable[str] = (),
    headers: Mapping[str, str] | None = None,
    attachments: Sequence[Any] = (),
    stream: str = "default",
    priority: Priority = "normal",
    send_at: Moment | None = None,
    expires_at: Moment | None = None,
    idempotency_key: str | None = None,
    in_doubt: Literal["resend", "hold"] | None = None,
    tags: Sequence[str] = (),
    metadata: Mapping[str, Any] | None = None,
    sensitive: bool = False,
) -> Message:
    """Queue one mail in the caller's transaction and return its row.

    The mail exists if and only if that transaction commits; a worker then delivers it. The row is
    written to the database that the routers give for `Message`: a transaction on another one does
    not cover it.

    Args:
        subject: One line; may be a lazy translation, which is resolved now.
        body: The plain text.
        recipient_list: The To addresses, any iterable of them but a string.
        from_email: The sender; ``DEFAULT_FROM_EMAIL`` if None.
        html: An HTML alternative to ``body`` (RFC 2046, multipart/alternative).
        cc: Further addressees, shown.
        bcc: Further addressees, in the envelope only.
        reply_to: Where replies go.
        headers: Further headers; a Message-ID or Date here is kept, else both are pinned now.
        attachments: ``(filename, content, mimetype)`` triples or MIME parts, as Django takes them;
            together at most ``PILLARBOX["ATTACHMENTS"]["limit"]`` bytes.
        stream: One of ``PILLARBOX["STREAMS"]``.
        priority: ``"high"``, ``"normal"`` or ``"low"``, within the stream.
        send_at: Not before this aware datetime, or this long from now.
        expires_at: Not after this aware datetime, or this long from now.
        idempotency_key: 1 to 255 characters, unique among all messages and compared bytewise. A
            second call with the same key and content returns the first message.
        in_doubt: What to do should it be unknown whether a server took the mail: ``"resend"`` once
            or ``"hold"`` for a person; the stream's policy if None.
        tags: Strings to find it by.
        metadata: A JSON-able dictionary of your own: string keys, at most 30 levels.
        sensitive: Show subject, body and attachments to nobody, and erase them once finished.

    Returns:
        The `Message`. It has no verbs: see `pillarbox.outbox`.

    Raises:
        InvalidMessage: An argument could not be followed; the text names it and the remedy.
        IdempotencyConflict: The key is taken by another content.
        TransactionManagementError: Autocommit is off, and this is no ``transaction.atomic()``.
    """
    content = Content(
        subject=subject,
        body=body,
        recipient_list=recipient_list,
        from_email=from_email,
        html=html,
        cc=cc,
        bcc=bcc,
        reply_to=reply_to,
        headers=headers,
        attachments=attachments,
    )
    options = Options(
        stream=stream,
        priority=priority,
        send_at=send_at,
        expires_at=expires_at,
        idempotency_key=idempotency_key,
        in_doubt=in_doubt,
        tags=tags,
        metadata=metadata,
        sensitive=sensitive,
    )
    return enqueue_content(content, options)


def send_emails(
    messages: Iterable[EmailMessage],
    *,
    stream: str = "default",
    priority: Priority = "normal",
    send_at: Moment | None = None,
    expires_at: Moment | None = None,
    in_doubt: Literal["resend", "hold"] | None = None,
    tags: Sequence[str] = (),
    metadata: Mapping[str, Any] | None = None,
    sensitive: bool = False,
) -> int:
    """Queue many mails in one atomic block of the caller's transaction; return how many.

    Args:
        messages: Any iterable of Django's ``EmailMessage``, a generator of any length too: they
            are written 500 at a time, in constant memory. A generator must yield a new message each
            time, since up to 500 are held at once. ``message.pillarbox``, a dictionary of the
            options below and of ``idempotency_key``, overrides them for one message.
        stream, priority, send_at, expires_at, in_doubt, tags, metadata, sensitive: As in
            `send_email`, for all of them.

    Returns:
        The number queued. A message whose idempotency key is already taken by the same content
        is not counted.

    Raises:
        InvalidMessage: One of them could not be delivered; a note says which. Nothing is queued.
        IdempotencyConflict: A key is taken by another content. Nothing is queued.
        TransactionManagementError: As for `send_email`.
    """
    options = Options(
        stream=stream,
        priority=priority,
        send_at=send_at,
        expires_at=expires_at,
        in_doubt=in_doubt,
        tags=tags,
        metadata=metadata,
        sensitive=sensitive,
    )
    return enqueue_many(messages, options)


async def asend_email(
    subject: str | Promise,
    body: str | Promise,
    recipient_list: Iterable[str],
    *,
    from_email: str | None = None,
    html: str | None = None,
    cc: Iterable[str] = (),
    bcc: Iterable[str] = (),
    reply_to: Iterable[str] = (),
    headers: Mapping[str, str] | None = None,
    attachments: Sequence[Any] = (),
    stream: str = "default",
    priority: Priority = "normal",
    send_at: Moment | None = None,
    expires_at: Moment | None = None,
    idempotency_key: str | None = None,
    in_doubt: Literal["resend", "hold"] | None = None,
    tags: Sequence[str] = (),
    metadata: Mapping[str, Any] | None = None,
    sensitive: bool = False,
) -> Message:
    """Queue one mail from async code: `send_email` in a thread, with the same arguments."""
    return await sync_to_async(send_email)(
        subject,
        body,
        recipient_list,
        from_email=from_email,
        html=html,
        cc=cc,
        bcc=bcc,
        reply_to=reply_to,
        headers=headers,
        attachments=attachments,
        stream=stream,
        priority=priority,
        send_at=send_at,
        expires_at=expires_at,
        idempotency_key=idempotency_key,
        in_doubt=in_doubt,
        tags=tags,
        metadata=metadata,
        sensitive=sensitive,
    )


async def asend_emails(
    messages: Iterable[EmailMessage],
    *,
    stream: str = "default",
    priority: Priority = "normal",
    send_at: Moment | None = None,
    expires_at: Moment | None = None,
    in_doubt: Literal["resend", "hold"] | None = None,
    tags: Sequence[str] = (),
    metadata: Mapping[str, Any] | None = None,
    sensitive: bool = False,
) -> int:
    """Queue many mails from async code: `send_emails` in a thread, with the same arguments."""
    return await sync_to_async(send_emails)(
        messages,
        stream=stream,
        priority=priority,
        send_at=send_at,
        expires_at=expires_at,
        in_doubt=in_doubt,
        tags=tags,
        metadata=metadata,
        sensitive=sensitive,
    )
