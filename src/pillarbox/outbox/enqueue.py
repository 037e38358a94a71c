"""Writes messages in the caller's transaction and wakes the engine on its commit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice

from django.core.mail import EmailMessage
from django.db import IntegrityError, connections, router, transaction
from django.db.transaction import TransactionManagementError

from pillarbox import codec, signals
from pillarbox.attachments import BlobWriter
from pillarbox.codec import Letter
from pillarbox.delivery import routes
from pillarbox.delivery.prepared import sqlstate_of
from pillarbox.engines import coalesce, get_engine
from pillarbox.exceptions import IdempotencyConflict, InvalidMessage
from pillarbox.models import Message, made
from pillarbox.outbox import rows
from pillarbox.outbox.content import EXPLAINED, Content
from pillarbox.outbox.drafts import Draft, Terms, draft, terms_of
from pillarbox.outbox.options import Options

CHUNK = 500
_UNIQUE_VIOLATION = "23505"  # SQLSTATE
_DUPLICATE_ENTRY = 1062  # MySQL's and MariaDB's ER_DUP_ENTRY


def enqueue(email: EmailMessage, options: Options) -> Message:
    """Write one message in the caller's transaction; it is delivered once that has committed.

    One INSERT and no other query, unless there are attachments or an idempotency key (then within
    a savepoint). With a key that is taken, return the first message instead, or raise
    IdempotencyConflict where its content differs or its row cannot be seen. Raise InvalidMessage
    for what could not be delivered, TransactionManagementError where no commit could be seen.
    """
    options = options.overridden_by(getattr(email, "pillarbox", None))
    return _write_one(_checked(email, options), options)


def enqueue_content(content: Content, options: Options) -> Message:
    """Write the message that ``send_email`` was given, as `enqueue` does.

    Raise InvalidMessage that names the argument which could not be followed.
    """
    letter = content.letter()
    if letter is not None:
        return _write_one(letter, options)
    content = content.checked()
    try:
        return enqueue(content.email(), options)
    except EXPLAINED as error:
        content.explain(error)  # Django speaks of headers, the caller of arguments
        raise


def _checked(email: EmailMessage, options: Options) -> Letter | EmailMessage:
    """Return a message as a letter where it is one. Raise for what could not be delivered."""
    letter = codec.letter_of(email)
    if letter is None:
        codec.check(email, raw=not codec.renders_itself(email) or _takes_mime(options))
    mail = letter or email
    if not mail.recipients():
        raise InvalidMessage("The message has no recipients. Set its to, cc or bcc.")
    return mail


def _takes_mime(options: Options) -> bool:
    mailers = routes.mailers_for(options.stream, options.using)
    return all(routes.takes_mime(alias) for alias in mailers)


def _write_one(mail: Letter | EmailMessage, options: Options) -> Message:
    terms = terms_of(options)
    using = _database()
    message, _ = _write(mail, terms, BlobWriter(using), using)
    return message


def _database() -> str:
    """Return where messages are written.

    Raise TransactionManagementError where Django could not tell of the commit: said after the
    INSERT it would make a caller who commits and tries again send the mail twice.
    """
    using = router.db_for_write(Message)
    connection = connections[using]
    if not connection.in_atomic_block and not connection.get_autocommit():
        raise TransactionManagementError(
            f"Mail cannot be queued while autocommit is off for the database {using!r}: "
            "on_commit() cannot be used in manual transaction management. Nothing was queued. "
            f"Call it within transaction.atomic(using={using!r})."
        )
    return using


def _write(
    mail: Letter | EmailMessage, terms: Terms, blobs: BlobWriter, using: str
) -> tuple[Message, bool]:
    """Insert one message; return it, or the first with its key, and whether it was inserted."""
    has_blobs = isinstance(mail, EmailMessage) and codec.has_blobs(mail)
    if terms.idempotency_key is None and not has_blobs:
        return _insert(draft(mail, terms, blobs), (), using), True
    written: list[Draft] = []
    try:
        with transaction.atomic(using=using):
            written.append(draft(mail, terms, blobs))
            return _insert(written[0], blobs.used() if has_blobs else (), using), True
    except IntegrityError as error:
        if terms.idempotency_key is None or not written or not _is_key_taken(error):
            raise
        return _first_with_key(written[0], using, error), False


def _is_key_taken(error: IntegrityError) -> bool:
    """Whether a row was refused because of the key of another, and not for some other reason."""
    text = str(error)
    is_unique_violation = (
        sqlstate_of(error) == _UNIQUE_VIOLATION
        or error.args[:1] == (_DUPLICATE_ENTRY,)
        or "UNIQUE constraint" in text  # SQLite has nothing but the text
    )
    # A receiver of Django's signals may write rows of its own, with constraints of their own.
    return is_unique_violation and "idempotency_key" in text


def _insert(row: Draft, attachments: Sequence[int], using: str) -> Message:
    message = rows.insert(row, using)
    if attachments:
        _attach([(message.pk, attachments)], using)
    _on_commit([message.pk], [message], using)
    return message


def _first_with_key(row: Draft, using: str, error: IntegrityError) -> Message:
    key = row.terms.idempotency_key
    first = Message.objects.using(using).filter(idempotency_key=key).first()
    if first is None:
        raise IdempotencyConflict(
            f"The idempotency key {key!r} is taken by a message that this transaction cannot see. "
            "Try again in a new one."
        ) from error
    if first.fingerprint != row.fingerprint:
        raise IdempotencyConflict(
            f"The idempotency key {key!r} is taken by message {first.pk}, whose content differs. "
            "Use another key for another mail."
        ) from error
    return first


def _attach(used: Iterable[tuple[int, Sequence[int]]], using: str) -> None:
    """Link each message, by its key, with the attachments that it uses."""
    through = Message.attachments.through
    links = [
        through(message_id=pk, attachment_id=attachment)
        for pk, attachments in used
        for attachment in attachments
    ]
    through.objects.using(using).bulk_create(links, batch_size=1000)


def enqueue_many(emails: Iterable[EmailMessage], options: Options) -> int:
    """Write many messages in one atomic block, 500 at a time; return how many were queued.

    Takes a generator of any length in constant memory. A message whose key is taken by the same
    content is not counted. The first invalid message raises InvalidMessage with its number, and
    nothing is queued. Raise TransactionManagementError where no commit could be seen.
    """
    using = _database()
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
    """Write what is but text, all of it together, and then the rest.

    What is but text is looked at and drafted only while it is written: PostgreSQL works on one row
    while the next is made. Whatever may make a query of its own is drafted before it is written,
    and what has a key is written by itself.
    """
    rest: list[tuple[int, EmailMessage]] = []
    letters = _drafts_of_letters(enumerate(chunk, start), options, blobs, rest)
    first = next(letters, None)
    if first is not None:
        _insert_many(chain([first], letters), (), using)
    queued = len(chunk) - len(rest)
    drafts: list[Draft] = []
    used: list[list[int]] = []
    for number, email in rest:
        try:
            own = options.overridden_by(getattr(email, "pillarbox", None))
            mail = _checked(email, own)
            terms = terms_of(own)
        except Exception as error:
            error.add_note(f"It is message number {number} of those given.")
            raise
        if terms.idempotency_key is not None:
            _, is_new = _write(mail, terms, blobs, using)
            queued += is_new
        else:
            drafts.append(draft(mail, terms, blobs))
            used.append(blobs.used() if isinstance(mail, EmailMessage) else [])
    if drafts:
        _insert_many(drafts, used, using)
    return queued + len(drafts)


def _drafts_of_letters(
    numbered: Iterable[tuple[int, EmailMessage]],
    options: Options,
    blobs: BlobWriter,
    rest: list[tuple[int, EmailMessage]],
) -> Iterator[Draft]:
    """Yield the drafts of what is but text and has no key; put into ``rest`` what is not.

    It makes no query and raises nothing: with what is wrong the caller can find fault later.
    """
    shared: Terms | None = None
    for number, email in numbered:
        letter = codec.letter_of(email)
        if letter is not None and letter.recipients():
            try:
                own = options.overridden_by(getattr(email, "pillarbox", None))
                if own is options:
                    terms = shared = shared or terms_of(options)
                else:
                    terms = terms_of(own)
            except InvalidMessage:
                pass  # to be found again
            else:
                if terms.idempotency_key is None:
                    yield draft(letter, terms, blobs)
                    continue
        rest.append((number, email))


def _insert_many(drafts: Iterable[Draft], used: Sequence[Sequence[int]], using: str) -> None:
    """Write drafts, of which ``used`` has the attachments' keys if there are any."""
    is_announced, has_blobs = _are_announced(), any(used)
    born: list[rows.Born] = []
    if has_blobs or is_announced or get_engine().is_immediate:
        drafts = list(drafts)
        born = rows.insert_many(drafts, len(drafts), using, returning=True)
    else:
        rows.insert_many(drafts, 0, using, returning=False)
    if has_blobs:
        _attach(((new.pk, ids) for new, ids in zip(born, used, strict=True)), using)
    announced: list[Message] = []
    if is_announced:
        pairs = zip(drafts, born, strict=True)
        announced = [rows.message_of(*pair, using) for pair in pairs]
    _on_commit([new.pk for new in born], announced, using)


def _on_commit(pks: Sequence[int], messages: Sequence[Message], using: str) -> None:
    """Wake the engine and announce the messages once the caller's transaction has committed.

    One hook for each INSERT: a savepoint that rolls back takes its own hook with it. A hook keeps
    the messages only where somebody listens, so that a mailing of a million takes no memory.
    """
    announced = messages if _are_announced() else ()
    woken = pks if get_engine().is_immediate else ()
    transaction.on_commit(partial(_committed, using, woken, announced), using=using, robust=True)


def _are_announced() -> bool:
    return made.listens(signals.message_queued)


def _committed(using: str, pks: Sequence[int], announced: Sequence[Message]) -> None:
    for message in announced:
        signals.announce(signals.message_queued, message)
    coalesce.wake(using, pks)
