"""The states of a message and of a recipient, and the one table of transitions; no queries."""

from django.db.models import IntegerChoices, TextChoices


class State(TextChoices):
    """Where a message is on its way (``Message.state``)."""

    QUEUED = "queued"
    SENDING = "sending"
    SENT = "sent"
    PARTLY_SENT = "partly_sent"
    FAILED = "failed"
    IN_DOUBT = "in_doubt"
    HELD = "held"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    SUPPRESSED = "suppressed"


class Priority(IntegerChoices):
    """Within a stream, every due message of a lower number goes first."""

    HIGH = 1
    NORMAL = 2
    LOW = 3


class RecipientState(TextChoices):
    """What became of one address (``Recipient.state``)."""

    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"
    IN_DOUBT = "in_doubt"


UNFINISHED = frozenset({State.QUEUED, State.SENDING, State.HELD, State.IN_DOUBT})
FINISHED = frozenset(State) - UNFINISHED

_TAKEN_AWAY = {State.CANCELLED, State.HELD, State.EXPIRED, State.SUPPRESSED}
_LATE = {State.SENT, State.PARTLY_SENT, State.FAILED}

TRANSITIONS: dict[State, frozenset[State]] = {
    # What ends it unclaimed was in doubt and waited for its one resend: a late result. Where it
    # expires meanwhile, it is in doubt.
    State.QUEUED: frozenset({State.SENDING, *_TAKEN_AWAY, *_LATE, State.IN_DOUBT}),
    # Not begun: a verb may still take the claim away. Begun: only a result ends it.
    State.SENDING: frozenset(
        {
            State.QUEUED,
            State.SENT,
            State.PARTLY_SENT,
            State.FAILED,
            State.IN_DOUBT,
            *_TAKEN_AWAY,
        }
    ),
    State.IN_DOUBT: frozenset({State.QUEUED, State.HELD, *_LATE}),
    # What ends a held message otherwise than by a verb was in doubt: a late result, or `resolve`.
    State.HELD: frozenset({State.QUEUED, State.CANCELLED, *_LATE}),
    State.FAILED: frozenset({State.QUEUED}),
    State.SENT: frozenset(),
    State.PARTLY_SENT: frozenset(),
    State.CANCELLED: frozenset(),
    State.EXPIRED: frozenset(),
    State.SUPPRESSED: frozenset(),
}
"""From → to. A message whose content was erased does not return to ``queued``."""
