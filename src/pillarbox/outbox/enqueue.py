"""Writes messages in the caller's transaction and wakes the engine on its commit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from email.utils import make_msgid
from functools import partial
from itertools import islice

from django.core.mail import EmailMessage
from django.core.mail.utils import DNS_NAME
from django.db import IntegrityError, connections, router, transaction

from pillarbox import addresses, codec, signals
from pillarbox.attachments import BlobWriter
from pillarbox.delivery import routes
from pillarbox.engines import coalesce, get_engine
from pillarbox.exceptions import IdempotencyConflict, InvalidMessage
from pillarbox.models import Message
from pillarbox.models.clock import host_now
from pillarbox.outbox.options import Options

CHUNK = 500


def enqueue(email: EmailMessage, options: Options) -> Message:
    """Write one message in the caller's transaction; it is delivered once that has committed.

    One INSERT and no other query, unless there are attachments or an idempotency key (then within
    a savepoint). With a key that is taken, return the first message instead, or raise
    IdempotencyConflict where its content differs or its row cannot be seen. Raise InvalidMessage
    for what could not be delivered.
    """
    options = _checked(email, options)
    using = router.db_for_write(Message)
    message, _ = _write(email, options, BlobWriter(using), using)
    return message


def _checked(email: EmailMessage, options: Options) -> Options:
    """Return the options with the message's own. Raise for what could not be delivered."""
    options = options.overridden_by(getattr(email, "pillarbox", None))
    codec.check(email, raw=not codec.renders_itself(email) or _takes_mime(options))
    if not email.recipients():
        raise InvalidMessage("The message has no recipients. Set its to, cc or bcc.")
    return options


def _takes_mime(options: Options) -> bool:
    mailers = routes.mailers_for(options.stream, options.using)
    return all(routes.takes_mime(alias) for alias in mailers)


def _write(
    email: EmailMessage, options: Options, blobs: BlobWriter, using: str
) -> tuple[Message, bool]:
    """Insert one message; return it, or the first with its key, and whether it was inserted."""
    if options.idempotency_key is None and not codec.has_blobs(email):
        message = _draft(email, options, blobs)
        _insert(message, (), using)
        return message, True
    draft: list[Message] = []
    try:
        with transaction.atomic(using=using):
            draft.append(_draft(email, options, blobs))
            _insert(draft[0], blobs.used(), using)
    except IntegrityError as error:
        if options.idempotency_key is None or not draft:
            raise
        return _first_with_key(draft[0], using, error), False
    return draft[0], True


def _insert(message: Message, attachments: Sequence[int], using: str) -> None:
    message.save(using=using, force_insert=True)
    _attach([message], [attachments], using)
    _show_times(message)
    _on_commit([message], using)


def _show_times(message: Message) -> None:
    """Put readable times in the place of the expressions that the INSERT was given.

    Django 6 reads them back with the INSERT; before that the host's clock must do, for the object
    in the caller's hands.
    """
    for name in ("due_at", "retry_since", "created_at"):
        if not isinstance(getattr(message, name), datetime):
            setattr(message, name, message.date)


def _first_with_key(draft: Message, using: str, error: IntegrityError) -> Message:
    key = draft.idempotency_key
    first = Message.objects.using(using).filter(idempotency_key=key).first()
    if first is None:
        raise IdempotencyConflict(
            f"The idempotency key {key!r} is taken by a message that this transaction cannot see. "
            "Try again in a new one."
        ) from error
    if first.fingerprint != draft.fingerprint:
        raise IdempotencyConflict(
            f"The idempotency key {key!r} is taken by message {first.pk}, whose content differs. "
            "Use another key for another mail."
        ) from error
    return first


def _draft(email: EmailMessage, options: Options, blobs: BlobWriter) -> Message:
    now = host_now()
    send_at, expires_at = options.schedule(now)
    date = max(now, send_at) if send_at else now
    message_id, content = _encode(email, blobs, date)
    recipients = email.recipients()
    message = Message(
        stream=options.stream,
        priority=options.priority_number,
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
        idempotency_key=options.idempotency_key,
        tags=list(options.tags),
        metadata=dict(options.metadata or {}),
        sensitive=options.is_sensitive,
    )
    if send_at is not None:
        message.due_at = message.retry_since = send_at
    if options.idempotency_key is not None:
        message.fingerprint = codec.fingerprint(content, sensitive=message.sensitive)
    return message


def _encode(email: EmailMessage, blobs: BlobWriter, date: datetime) -> tuple[str, str]:
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


def _attach(messages: Sequence[Message], used: Sequence[Sequence[int]], using: str) -> None:
    through = Message.attachments.through
    links = [
        through(message_id=message.pk, attachment_id=attachment)
        for message, attachments in zip(messages, used, strict=True)
        for attachment in attachments
    ]
    if links:
        through.objects.using(using).bulk_create(links, batch_size=1000)


def enqueue_many(emails: Iterable[EmailMessage], options: Options) -> int:
    """Write many messages in one atomic block, 500 at a time; return how many were queued.

    Takes a generator of any length in constant memory. A message whose key is taken by the same
    content is not counted. The first invalid message raises InvalidMessage with its number, and
    nothing is queued.
    """
    using = router.db_for_write(Message)
    queued = given = 0
    with transaction.atomic(using=using):
        blobs = BlobWriter(using)
        iterator = iter(emails)
        while chunk := list(islice(iterator, CHUNK)):
            queued += _enqueue_chunk(chunk, options, blobs, using, start=given + 1)
            given += len(chunk)
    return queued


def _enqueue_chunk(
    chunk: list[EmailMessage], options: Options, blobs: BlobWriter, using: str, *, start: int
) -> int:
    drafts, used, singly = [], [], 0
    for number, email in enumerate(chunk, start):
        try:
            own = _checked(email, options)
        except Exception as error:
            error.add_note(f"It is message number {number} of those given.")
            raise
        if own.idempotency_key is not None:
            _, is_new = _write(email, own, blobs, using)
            singly += is_new
        else:
            drafts.append(_draft(email, own, blobs))
            used.append(blobs.used())
    _insert_drafts(drafts, used, using)
    return len(drafts) + singly


def _insert_drafts(drafts: list[Message], used: Sequence[Sequence[int]], using: str) -> None:
    if not drafts:
        return
    needs_keys = any(used) or get_engine().is_immediate or _are_announced()
    if needs_keys and not connections[using].features.can_return_rows_from_bulk_insert:
        # MySQL gives no keys back for a bulk insert.
        for draft in drafts:
            draft.save(using=using, force_insert=True)
    else:
        Message.objects.using(using).bulk_create(drafts)
    _attach(drafts, used, using)
    _on_commit(drafts, using)


def _on_commit(messages: Sequence[Message], using: str) -> None:
    """Wake the engine and announce the messages once the caller's transaction has committed.

    One hook for each INSERT: a savepoint that rolls back takes its own hook with it. A hook keeps
    the messages only where somebody listens, so that a mailing of a million takes no memory.
    """
    announced = list(messages) if _are_announced() else []
    pks = [message.pk for message in messages] if get_engine().is_immediate else []
    transaction.on_commit(partial(_committed, using, pks, announced), using=using, robust=True)


def _are_announced() -> bool:
    return signals.message_queued.has_listeners(Message)


def _committed(using: str, pks: Sequence[int], announced: Sequence[Message]) -> None:
    for message in announced:
        signals.announce(signals.message_queued, message)
    coalesce.wake(using, pks)
