"""A group commit: what it did, whether it is plain, and what a result leaves in the tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from pillarbox.delivery.outcomes import Reply, Sent
from pillarbox.delivery.senders.base import Parcel, Result
from pillarbox.delivery.verdicts import Verdict

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
    begun = {parcel.message.id for parcel in begins if not parcel.begins_tried}
    sent = {result.parcel.message.id for result in results if _is_plain(result)}
    return len(begun) == len(begins) and len(sent) == len(results)


def _is_plain(result: Result) -> bool:
    parcel = result.parcel
    return (
        isinstance(result.outcome, Sent)
        and result.verdict is None
        and not parcel.has_rows
        and not parcel.message.sensitive
    )


class Tried(NamedTuple):
    """What a result says of an attempt, as columns of `Attempt`."""

    mailer: str
    server: str
    started_at: datetime
    took_ms: int
    stage: str
    code: int | None
    enhanced_code: str
    reply: str


class Served(NamedTuple):
    """What a result says to one address, as columns of `Recipient`."""

    message_id: int
    kind: str
    address: str
    code: int | None
    enhanced_code: str
    reply: str


def tried(result: Result) -> Tried:
    parcel, outcome = result.parcel, result.outcome
    reply = outcome.reply
    return Tried(
        parcel.mailer,
        parcel.server,
        result.started_at,
        round(result.took_s * 1000),
        outcome.stage,
        reply.code,
        reply.enhanced_code,
        storable(reply.text),
    )


def served(parcel: Parcel, address: str, reply: Reply) -> Served:
    return Served(
        parcel.message.id,
        parcel.kinds.get(address, "to"),
        address[:320],
        reply.code,
        reply.enhanced_code,
        storable(reply.text),
    )


def storable(text: str) -> str:
    """Return a server's words as every database can hold them: short, no NUL, no surrogate."""
    clean = text[:REPLY_MAX].replace("\x00", "\ufffd")
    return clean if clean.isascii() else clean.encode("utf-8", "replace").decode("utf-8")
