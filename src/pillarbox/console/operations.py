"""The verbs that a person may use on messages, and doing one to many; it changes no row itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from django.db import transaction

from pillarbox import outbox
from pillarbox.console.doubts import is_in_doubt
from pillarbox.exceptions import InvalidTransition
from pillarbox.models import Message, State


@dataclass(frozen=True)
class Operation:
    """A button on the page of a message, and an ``action`` on the list.

    ``states`` are those in which the button is shown; `pillarbox.outbox` has the last word.
    """

    name: str
    label: str
    action: str
    effect: str
    done: str
    run: Callable[[Message], Message]
    states: frozenset[State]
    needs_content: bool = False
    settles_doubts: bool = False

    def is_possible(self, message: Message) -> bool:
        """Whether the message's state allows it now."""
        if self.needs_content and message.is_erased:
            return False
        if self.settles_doubts:
            return is_in_doubt(message)
        return message.state in self.states and not _is_in_conversation(message)


def _is_in_conversation(message: Message) -> bool:
    return message.state == State.SENDING and message.begun_at is not None


OPERATIONS = (
    Operation(
        name="retry",
        label="Retry",
        action="Retry",
        effect="Queue it again, to be sent now.",
        done="queued again",
        run=outbox.retry,
        states=frozenset({State.FAILED}),
        needs_content=True,
    ),
    Operation(
        name="release",
        label="Release",
        action="Release",
        effect="Put it back into the queue.",
        done="released",
        run=outbox.release,
        states=frozenset({State.HELD}),
    ),
    Operation(
        name="resolve_sent",
        label="It was sent",
        action="Resolve the doubt: it was sent",
        effect="Settle the doubt: the server’s log or the recipient says that it arrived.",
        done="settled as sent",
        run=partial(outbox.resolve, sent=True),
        states=frozenset({State.IN_DOUBT, State.HELD}),
        settles_doubts=True,
    ),
    Operation(
        name="resolve_resend",
        label="Send it again",
        action="Resolve the doubt: send it again",
        effect="Settle the doubt: it did not arrive. If it did, the recipient gets it twice.",
        done="queued again",
        run=partial(outbox.resolve, sent=False),
        states=frozenset({State.IN_DOUBT, State.HELD}),
        settles_doubts=True,
    ),
    Operation(
        name="hold",
        label="Hold",
        action="Hold",
        effect="Keep it back until somebody releases it.",
        done="held",
        run=outbox.hold,
        states=frozenset({State.QUEUED, State.SENDING, State.IN_DOUBT}),
    ),
    Operation(
        name="cancel",
        label="Cancel",
        action="Cancel",
        effect="Never send it. This is final.",
        done="cancelled",
        run=outbox.cancel,
        states=frozenset({State.QUEUED, State.SENDING, State.HELD}),
    ),
)
BY_NAME = {operation.name: operation for operation in OPERATIONS}


def possible(message: Message) -> list[Operation]:
    """Return the operations that the message's state allows."""
    return [operation for operation in OPERATIONS if operation.is_possible(message)]


@dataclass
class Tally:
    """What became of an operation on several messages."""

    done: list[Message] = field(default_factory=list)
    refused: list[InvalidTransition] = field(default_factory=list)


def run(
    operation: Operation, messages: Iterable[Message], note: Callable[[Message], object]
) -> Tally:
    """Do ``operation`` to each message, in a transaction of its own; a refusal stops no other.

    ``note`` is called in that transaction with each message that was turned.
    """
    tally = Tally()
    for message in messages:
        try:
            with transaction.atomic(using=message._state.db):
                turned = operation.run(message)
                note(turned)
        except InvalidTransition as refusal:
            tally.refused.append(refusal)
        else:
            tally.done.append(turned)
    return tally
