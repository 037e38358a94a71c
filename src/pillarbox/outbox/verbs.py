"""What a person may do to a message, in the caller's transaction: five verbs on `Message`.

Each takes a `Message`, checks the state in the database and not in the object, and returns the
message as it then is. Each raises InvalidTransition where the state forbids it, and announces
itself after the commit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from django.db import router, transaction
from django.db.models import Case, Exists, F, OuterRef, Q, QuerySet, Value, When
from django.dispatch import Signal

from pillarbox import retention, signals
from pillarbox.engines import coalesce
from pillarbox.exceptions import InvalidTransition
from pillarbox.models import Attempt, DatabaseNow, Message, Recipient, RecipientState, State

_NOT_BEGUN = Q(state=State.SENDING, begun_at=None)
_IN_DOUBT = Q(state=State.IN_DOUBT) | Q(state=State.HELD, begun_at__isnull=False)
_LET_GO = {"drain": None, "begun_at": None}


def cancel(message: Message) -> Message:
    """Cancel a message that is ``queued``, ``held``, or claimed and not yet begun.

    It is never sent. Raise InvalidTransition if its conversation has begun or it is finished.
    """
    allowed = Q(state__in=(State.QUEUED, State.HELD)) | _NOT_BEGUN
    values = {"state": State.CANCELLED, "finished_at": DatabaseNow(), **_LET_GO}
    return _turn("cancel", message, allowed, values, signals.message_cancelled)


def hold(message: Message) -> Message:
    """Hold a message that is ``queued``, claimed and not yet begun, or ``in_doubt``.

    It waits, whatever its age, until `release` or `cancel`. What is in doubt stays so: a late
    result of the drain that had begun it still settles it, and `resolve` does.
    """
    allowed = Q(state__in=(State.QUEUED, State.IN_DOUBT)) | _NOT_BEGUN
    claim = Case(When(begun_at__isnull=False, then=F("drain")), default=None)
    values = {"state": State.HELD, "drain": claim}
    return _turn("hold", message, allowed, values, signals.message_held)


def release(message: Message) -> Message:
    """Queue a ``held`` message again, due now; its ``retry_for`` counts anew.

    If it was in doubt it may then arrive twice: that is the caller's choice.
    """
    allowed = Q(state=State.HELD)
    return _turn("release", message, allowed, _queued_anew(), signals.message_released)


def retry(message: Message) -> Message:
    """Queue a ``failed`` message again, due now, for the recipients that did not get it.

    ``retry_for`` counts anew. Raise InvalidTransition once the content is erased.
    """
    allowed = Q(state=State.FAILED) & ~Q(content="")
    return _turn(
        "retry", message, allowed, _queued_anew(), signals.message_released, _try_all_again
    )


def resolve(message: Message, *, sent: bool) -> Message:
    """Decide what became of a message ``in_doubt``: it was ``sent``, or is to be sent again.

    The same for one that was held while in doubt. Where it was sent, it was to the recipients in
    doubt alone: for those whom the server had refused for now it is queued again. Sent again it
    keeps its Message-ID and Date, and that is not counted as the policy's one resend.
    """
    values = _queued_anew()
    if sent:
        waiting, refused = _has(RecipientState.PENDING), _has(RecipientState.FAILED)
        values["state"] = Case(
            When(waiting, then=Value(State.QUEUED)),
            When(refused, then=Value(State.PARTLY_SENT)),
            default=Value(State.SENT),
        )
        values["finished_at"] = Case(When(waiting, then=None), default=DatabaseNow())
    follow = partial(_note_resolution, sent=sent)
    return _turn("resolve", message, _IN_DOUBT, values, signals.message_sent, follow)


def _has(state: RecipientState) -> Exists:
    return Exists(Recipient.objects.filter(message=OuterRef("pk"), state=state))


def _note_resolution(message: Message, recipients: QuerySet[Recipient], *, sent: bool) -> None:
    word = RecipientState.SENT if sent else RecipientState.PENDING
    doubtful = recipients.filter(state=RecipientState.IN_DOUBT)
    doubtful.update(state=word, updated_at=DatabaseNow())
    Attempt.objects.using(recipients.db).create(
        message=message,
        mailer=message.mailer,
        started_at=DatabaseNow(),
        result=Attempt.Result.RESOLVED,
        reply=f"Resolved by a person: {'it was sent' if sent else 'it is to be sent again'}.",
    )


def _try_all_again(_: Message, recipients: QuerySet[Recipient]) -> None:
    unserved = recipients.exclude(state=RecipientState.SENT)
    unserved.update(state=RecipientState.PENDING, updated_at=DatabaseNow())


def _nothing(message: Message, recipients: QuerySet[Recipient]) -> None:
    """Leave the recipients as they are."""


def _queued_anew() -> dict[str, Any]:
    now = DatabaseNow()
    values = {"state": State.QUEUED, "due_at": now, "retry_since": now, "finished_at": None}
    return {**values, **_LET_GO}


def _turn(
    verb: str,
    message: Message,
    allowed: Q,
    values: dict[str, Any],
    signal: Signal,
    follow: Callable[[Message, QuerySet[Recipient]], None] = _nothing,
) -> Message:
    """Turn the row if ``allowed`` holds for it; ``follow`` brings its recipients into line."""
    using = message._state.db or router.db_for_write(Message)
    rows = Message.objects.using(using)
    with transaction.atomic(using=using):
        if not rows.filter(allowed, pk=message.pk).update(**values):
            raise InvalidTransition(_refusal(verb, rows.filter(pk=message.pk).first()))
        current = rows.get(pk=message.pk)
        follow(current, Recipient.objects.using(using).filter(message=current))
        retention.erase_sensitive(using, [current])
        is_queued = current.state == State.QUEUED
        word = partial(signals.announce, signals.message_released if is_queued else signal, current)
        transaction.on_commit(word, using=using, robust=True)
        if is_queued:
            wake = partial(coalesce.wake, using, [current.pk])
            transaction.on_commit(wake, using=using, robust=True)
    return current


def _refusal(verb: str, current: Message | None) -> str:
    if current is None:
        return f"Cannot {verb} this message: its row is gone."
    begun = " and its conversation has begun" if current.begun_at else ""
    erased = " and its content is erased" if current.is_erased else ""
    return f"Cannot {verb} message {current.pk}: it is {current.state}{begun}{erased}."


def each(verb: Any, messages: Sequence[Message]) -> tuple[list[Message], list[InvalidTransition]]:
    """Apply a verb to many messages; return those it turned and the refusals."""
    turned: list[Message] = []
    refused: list[InvalidTransition] = []
    for message in messages:
        try:
            turned.append(verb(message))
        except InvalidTransition as error:
            refused.append(error)
    return turned, refused
