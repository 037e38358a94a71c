"""Compares what the database says of each mail with what the world got; the crash tests' judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from pillarbox.delivery import doubts
from pillarbox.models import Attempt, Message, State


@dataclass
class Audit:
    """What is wrong, by Message-ID. Empty lists are what every test wants."""

    lost: list[str] = field(default_factory=list)
    """Said to be sent, and never taken by a server; or not said to be anything at all."""
    denied: list[str] = field(default_factory=list)
    """Taken by a server, and neither said to be sent nor listed in doubt."""
    failed_after_doubt: list[str] = field(default_factory=list)
    """Taken, in doubt, sent again under ``resend``, and then refused for good: the trail has it."""
    twice_in_silence: list[str] = field(default_factory=list)
    """Taken twice under ``hold``, or without a doubt in the trail, or more than twice."""
    twice_under_resend: list[str] = field(default_factory=list)
    in_doubt: list[str] = field(default_factory=list)
    """Those that a person would find listed."""
    unfinished: list[str] = field(default_factory=list)
    states: Counter[str] = field(default_factory=Counter)

    @property
    def breaches(self) -> dict[str, list[str]]:
        """Return what must never be, whatever happened on the way."""
        found = {
            "lost": self.lost,
            "denied": self.denied,
            "twice in silence": self.twice_in_silence,
            "unfinished": self.unfinished,
        }
        return {name: ids for name, ids in found.items() if ids}


def audit(accepted: Mapping[str, int], *, enqueued: int) -> Audit:
    """Return the audit of every message in the database, given how often each was taken.

    ``enqueued`` is how many there must be.
    """
    found = Audit()
    messages = list(Message.objects.order_by("pk"))
    doubtful = Attempt.objects.filter(result=Attempt.Result.IN_DOUBT)
    doubted = set(doubtful.values_list("message_id", flat=True))
    for message in messages:
        was_resent = message.pk in doubted and doubts.policy_of(message) == "resend"
        _examine(message, accepted.get(message.message_id, 0), found, was_resent=was_resent)
    found.lost += ["a row"] * (enqueued - len(messages))
    found.denied += sorted(set(accepted) - {message.message_id for message in messages})
    return found


def _examine(message: Message, times: int, found: Audit, *, was_resent: bool) -> None:
    state, name = State(message.state), message.message_id
    found.states[str(state)] += 1
    if state is State.IN_DOUBT:
        found.in_doubt.append(name)
    elif state in {State.QUEUED, State.SENDING}:
        found.unfinished.append(name)
    elif state is State.SENT and not times:
        found.lost.append(name)
    elif state is not State.SENT and times:
        (found.failed_after_doubt if was_resent else found.denied).append(name)
    if times > 1:
        may_be = was_resent and times == 2
        (found.twice_under_resend if may_be else found.twice_in_silence).append(name)
