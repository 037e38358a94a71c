"""A group commit: what it did, whether it is plain, and what a result leaves in the tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pillarbox.delivery import verdicts
from pillarbox.delivery.outcomes import Reply, Sent
from pillarbox.delivery.senders.base import Parcel, Result
from pillarbox.delivery.verdicts import Verdict
from pillarbox.models import RecipientState

REPLY_MAX = 1000


@dataclass
class Entry:
    """What one group commit did."""

    begun: list[Parcel] = field(default_factory=list)
    locked: list[Parcel] = field(default_factory=list)
    """Somebody's open transaction has the row: to be tried again."""
    lost: list[Parcel] = field(default_factory=list)
    """Another owns it now, or a verb took it away: not to be sent."""
    settled: list[tuple[Result, Verdict]] = field(default_factory=list)
    refused: list[Result] = field(default_factory=list)
    """Results that came too late: another has settled the message."""

    def add(self, other: Entry) -> None:
        """Take up what another commit did."""
        self.begun += other.begun
        self.locked += other.locked
        self.lost += other.lost
        self.settled += other.settled
        self.refused += other.refused


def are_plain(begins: Sequence[Parcel], results: Sequence[Result]) -> bool:
    """Whether all of it is what happens nearly always: at a first try, sent to everybody.

    And no message is in it twice.
    """
    begun = {parcel.message.pk for parcel in begins if not parcel.begins_tried}
    sent = {result.parcel.message.pk for result in results if _is_plain(result)}
    return len(begun) == len(begins) and len(sent) == len(results)


def _is_plain(result: Result) -> bool:
    parcel = result.parcel
    return (
        isinstance(result.outcome, Sent)
        and result.verdict is None
        and not parcel.has_rows
        and not parcel.message.sensitive
    )


def attempt_values(result: Result) -> dict[str, Any]:
    outcome = result.outcome
    return {
        "mailer": result.parcel.mailer,
        "server": result.parcel.server,
        "started_at": result.started_at,
        "took_ms": round(result.took_s * 1000),
        "result": verdicts.RESULTS[type(outcome)],
        "stage": outcome.stage,
        "code": outcome.reply.code,
        "enhanced_code": outcome.reply.enhanced_code,
        "reply": storable(outcome.reply.text),
    }


def recipient_values(
    parcel: Parcel, address: str, state: RecipientState, reply: Reply, now: datetime
) -> dict[str, Any]:
    return {
        "message_id": parcel.message.pk,
        "kind": parcel.kinds.get(address, "to"),
        "address": address[:320],
        "state": state,
        "code": reply.code,
        "enhanced_code": reply.enhanced_code,
        "reply": storable(reply.text),
        "updated_at": now,
    }


def storable(text: str) -> str:
    """Return a server's words as every database can hold them: short, no NUL, no surrogate."""
    clean = text[:REPLY_MAX].replace("\x00", "\ufffd")
    return clean.encode("utf-8", "replace").decode("utf-8")
