"""What a person may do to a message, in the caller's transaction: five verbs on `Message`.

Each takes a `Message`, checks the state in the database and not in the object, and returns the
message as it then is. Each raises InvalidTransition where the state forbids it, and announces
itself after the commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from django.db import router, transaction
from django.db.models import Case, Exists, OuterRef, Q, Value, When
from django.dispatch import Signal

from pillarbox import retention, signals
from pillarbox.engines import coalesce
from pillarbox.exceptions import InvalidTransition
from pillarbox.models import Attempt, DatabaseNow, Message, Recipient, RecipientState, State

_NOT_BEGUN = Q(state=State.SENDING, begun_at=None)
_LET_GO = {"drain": None, "begun_at": None}
_FINAL = (RecipientState.SENT, RecipientState.FAILED)


def cancel(message: Message) -> Message:
    """Cancel a message that is ``queued``, ``held``, or claimed and not yet begun.

    It is never sent. Raise InvalidTransition if its conversation has begun or it is finished.
    """
    allowed = Q(state__in=(State.QUEUED, State.HELD)) | _NOT_BEGUN
    values = {"state": State.CANCELLED, "finished_at": DatabaseNow(), **_LET_GO}
    return _turn("cancel", message, allowed, values, signals.message_cancelled)


def hold(message: Message) -> Message:
    """Hold a message that is ``queued``, claimed and not yet begun, or ``in_doubt``.

    It waits, whatever its age, until `release` or `cancel`.
    """
    allowed = Q(state__in=(State.QUEUED, State.IN_DOUBT)) | _NOT_BEGUN
    return _turn("hold", message, allowed, {"state": State.HELD}, signals.message_held)


def release(message: Message) -> Message:
    """Queue a ``held`` message again, due now; its ``retry_for`` counts anew."""
    allowed = Q(state=State.HELD)
    return _turn("release", message, allowed, _queued_anew(), signals.message_released)


def retry(message: Message) -> Message:
    """Queue a ``failed`` message again, due now, for the recipients that did not get it.

    ``retry_for`` counts anew. Raise InvalidTransition once the content is erased.
    """
    allowed = Q(state=State.FAILED) & ~Q(content="")
    return _turn("retry", message, allowed, _queued_anew(), signals.message_released)


def resolve(message: Message, *, sent: bool) -> Message:
    """Decide what became of a message ``in_doubt``: it was ``sent``, or is to be sent again.

    Sent again with the same Message-ID and Date, and not counted as the policy's one resend.
    """
    allowed = Q(state=State.IN_DOUBT)
    if sent:
        refused = Recipient.objects.filter(message=OuterRef("pk"), state=RecipientState.FAILED)
        state = Case(
            When(Exists(refused), then=Value(State.PARTLY_SENT)), default=Value(State.SENT)
        )
        values = {"state": state, "finished_at": DatabaseNow(), **_LET_GO}
        return _turn("resolve", message, allowed, values, signals.message_sent)
    return _turn("resolve", message, allowed, _queued_anew(), signals.message_released)


def _queued_anew() -> dict[str, Any]:
    now = DatabaseNow()
    values = {"state": State.QUEUED, "due_at": now, "retry_since": now, "finished_at": None}
    return {**values, **_LET_GO}


def _turn(
    verb: str, message: Message, allowed: Q, values: dict[str, Any], signal: Signal
) -> Message:
    using = message._state.db or router.db_for_write(Message)
    rows = Message.objects.using(using)
    with transaction.atomic(using=using):
        if not rows.filter(allowed, pk=message.pk).update(**values):
            raise InvalidTransition(_refusal(verb, rows.filter(pk=message.pk).first()))
        current = rows.get(pk=message.pk)
        _follow(verb, current, using)
        transaction.on_commit(partial(signals.announce, signal, current), using=using, robust=True)
        if current.state == State.QUEUED:
            wake = partial(coalesce.wake, using, [current.pk])
            transaction.on_commit(wake, using=using, robust=True)
    return current


def _follow(verb: str, message: Message, using: str) -> None:
    """Bring what hangs on the message into line with its new state."""
    recipients = Recipient.objects.using(using).filter(message=message)
    if verb == "retry":
        recipients.exclude(state=RecipientState.SENT).update(state=RecipientState.PENDING)
    if verb == "resolve":
        word = RecipientState.PENDING if message.state == State.QUEUED else RecipientState.SENT
        recipients.exclude(state__in=_FINAL).update(state=word)
        Attempt.objects.using(using).create(
            message=message,
            mailer=message.mailer,
            started_at=DatabaseNow(),
            result=Attempt.Result.RESOLVED,
            reply=f"Resolved by a person: {message.get_state_display().lower()}.",
        )
    retention.erase_sensitive(using, [message])


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
