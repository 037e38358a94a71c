"""What an outcome makes of a message and its recipients; pure: values in, values out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.dispatch import Signal

from pillarbox import signals
from pillarbox.conf import get_settings
from pillarbox.delivery import doubts, retry
from pillarbox.delivery.outcomes import (
    Fail,
    InDoubt,
    MailerDown,
    Outcome,
    PartlySent,
    Reply,
    Retry,
    Sent,
    Stage,
)
from pillarbox.models import Attempt, Message, RecipientState, State

PASSED_BY_FOR = timedelta(seconds=30)
"""How long a message waits over which its mailer broke, so that others try the mailer first: it
may be what the server cannot bear."""

RESULTS: dict[type[Outcome], Attempt.Result] = {
    Sent: Attempt.Result.SENT,
    PartlySent: Attempt.Result.PARTLY_SENT,
    Retry: Attempt.Result.RETRY,
    Fail: Attempt.Result.FAILED,
    MailerDown: Attempt.Result.MAILER_DOWN,
    InDoubt: Attempt.Result.IN_DOUBT,
}


@dataclass(frozen=True)
class Verdict:
    """The columns of the message that change, what became of each address, and the signal."""

    columns: Mapping[str, Any]
    recipients: Mapping[str, tuple[RecipientState, Reply]] = field(default_factory=dict)
    signal: Signal | None = None

    @property
    def state(self) -> State:
        """The message's new state."""
        state: State = self.columns["state"]
        return state


@dataclass(frozen=True)
class History:
    """What earlier attempts made of the other recipients of the message."""

    some_sent: bool = False
    some_failed: bool = False
    some_in_doubt: bool = False


def judge(
    outcome: Outcome,
    message: Message,
    addresses: list[str],
    history: History,
    now: datetime,
    jitter: float,
    *,
    has_other_mailer: bool = False,
) -> Verdict:
    """Return what ``outcome`` makes of ``message``, whose ``addresses`` were tried.

    A mailer's fault charges nothing and leaves the message due as it was; it waits for 30 s where
    the server had been told of it and no other mailer takes it. Else a message is ``sent`` when
    every recipient is, over all attempts; ``failed`` when none is; ``partly_sent`` between. While
    one may still be tried again it is ``queued``. Where an earlier attempt is in doubt, a later
    one's failure does not say that nobody has it: the message stays ``in_doubt``.
    """
    if isinstance(outcome, MailerDown):
        columns = {"state": State.QUEUED, **_LET_GO}
        if outcome.stage is not Stage.OPEN and not has_other_mailer:
            columns["due_at"] = now + PASSED_BY_FOR
        return Verdict(columns)
    if isinstance(outcome, Sent):
        return sent_to_all(outcome, message, addresses, now, some_failed=history.some_failed)
    states = {address: _recipient_state(outcome, address) for address in addresses}
    if isinstance(outcome, InDoubt):
        columns = {**doubts.settle(message, now), "attempts": message.attempts + 1}
        return Verdict(columns, _with_replies(states, outcome), signals.message_in_doubt)
    if RecipientState.PENDING in states.values() or (isinstance(outcome, Retry) and not states):
        due_at = _next_due(outcome, message, now, jitter)
        if due_at is not None:
            charge = _charge_once(message) if _goes_on(outcome) else _charge(message)
            columns = {"state": State.QUEUED, "due_at": due_at, **_LET_GO, **charge}
            if history.some_in_doubt:  # who waits may have it all the same
                states = _doubtful(states, RecipientState.PENDING)
            return Verdict(columns, _with_replies(states, outcome), signals.message_retried)
        states = {
            address: RecipientState.FAILED if state is RecipientState.PENDING else state
            for address, state in states.items()
        }
    state = _final_state(set(states.values()), history)
    if state is State.FAILED and history.some_in_doubt:
        states = _doubtful(states, RecipientState.FAILED)
        columns = {"state": State.IN_DOUBT, **_charge(message)}
        return Verdict(columns, _with_replies(states, outcome), signals.message_in_doubt)
    columns = {"state": state, "finished_at": now, **_LET_GO, **_charge(message)}
    signal = signals.message_failed if state is State.FAILED else signals.message_sent
    return Verdict(columns, _with_replies(states, outcome), signal)


def sent_to_all(
    outcome: Sent,
    message: Message,
    addresses: Iterable[str],
    now: datetime,
    *,
    some_failed: bool,
) -> Verdict:
    """Return what the usual outcome makes of ``message``: it is ``sent``, to all it was meant for.

    With ``some_failed``, of an earlier attempt, it is ``partly_sent``.
    """
    state = State.PARTLY_SENT if some_failed else State.SENT
    columns = {
        "state": state,
        "finished_at": now,
        "drain": None,
        "begun_at": None,
        "attempts": message.attempts + 1,
    }
    given, common = outcome.recipients, outcome.reply
    recipients = {
        address: (RecipientState.SENT, given.get(address, common)) for address in addresses
    }
    return Verdict(columns, recipients, signals.message_sent)


_LET_GO: Mapping[str, Any] = {"drain": None, "begun_at": None}


def _charge(message: Message) -> dict[str, Any]:
    return {"attempts": message.attempts + 1}


def _charge_once(message: Message) -> dict[str, Any]:
    # A long list that goes in parts fails by nobody's doing, and yet has rows from its first part.
    return {"attempts": max(message.attempts, 1)}


def _goes_on(outcome: Outcome) -> bool:
    """Whether some were served and the server had no room for others: no reason to wait."""
    return isinstance(outcome, PartlySent) and bool(outcome.put_off)


def _next_due(outcome: Outcome, message: Message, now: datetime, jitter: float) -> datetime | None:
    if _goes_on(outcome):
        return now if message.expires_at is None or now < message.expires_at else None
    return retry.next_due(
        now,
        message.attempts + 1,
        asked=outcome.after if isinstance(outcome, Retry) else None,
        retry_since=message.retry_since,
        retry_for=get_settings().stream(message.stream).retry_for,
        expires_at=message.expires_at,
        jitter=jitter,
    )


def _recipient_state(outcome: Outcome, address: str) -> RecipientState:
    refusal = outcome.recipients.get(address)
    if refusal is not None and refusal.code is not None and refusal.code >= 400:
        return RecipientState.PENDING if refusal.code < 500 else RecipientState.FAILED
    match outcome:
        case PartlySent():
            return RecipientState.SENT
        case InDoubt():
            return RecipientState.IN_DOUBT
        case Retry():
            return RecipientState.PENDING
        case _:
            return RecipientState.FAILED


def _final_state(states: set[RecipientState], history: History) -> State:
    some_sent = RecipientState.SENT in states or history.some_sent
    some_failed = RecipientState.FAILED in states or history.some_failed
    if some_sent:
        return State.PARTLY_SENT if some_failed else State.SENT
    return State.FAILED


def _doubtful(
    states: Mapping[str, RecipientState], instead_of: RecipientState
) -> dict[str, RecipientState]:
    return {
        address: RecipientState.IN_DOUBT if state is instead_of else state
        for address, state in states.items()
    }


def _with_replies(
    states: Mapping[str, RecipientState], outcome: Outcome
) -> dict[str, tuple[RecipientState, Reply]]:
    return {
        address: (state, outcome.recipients.get(address, outcome.reply))
        for address, state in states.items()
    }
