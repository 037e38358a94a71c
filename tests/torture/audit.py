"""Compares the SMTP server's ledger with the database's rows after a run; pure."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

DYING_S = 0.05
"""What the dead had written before is still accepted after the kill, and is no recovery."""


@dataclass(frozen=True)
class Row:
    """What the database says of one message; ``is_listed``: the list of doubts shows it."""

    message_id: str
    policy: str
    state: str
    resends: int = 0
    is_listed: bool = False


@dataclass(frozen=True)
class Facts:
    """One run. Moments are monotonic seconds, the same clock for every process of the machine."""

    queued: Sequence[str]
    """The Message-ID of every mail that `send_emails` took."""
    rows: Sequence[Row]
    accepted: Sequence[tuple[float, str]]
    """When the server decided on 250, and for which Message-ID, in the order of time."""
    kills: Sequence[float]
    """When processes were killed; mail was due at each of these moments, and at those below."""
    connections: int
    """How many each process has open."""
    patience_s: float
    """Within which mail has to go again after a kill."""
    stops: Sequence[float] = ()
    """When processes were stopped, for longer than their leases; they went on later."""
    asked: Sequence[float] = ()
    """Further moments from which on mail had to go."""


@dataclass
class Findings:
    """A line of the table, and what breaks a promise."""

    mails: int
    kills: int
    stops: int
    lost: int
    twice: int
    in_doubt: int
    slowest_recovery_s: float
    breaches: list[str] = field(default_factory=list)


def audit(facts: Facts) -> Findings:
    """Count, and say which promises were broken."""
    copies = Counter(message_id for _, message_id in facts.accepted)
    recoveries = list(_recoveries(facts))
    lost = list(_lost(facts, copies))
    breaches = [
        *lost,
        *(f"{name} was accepted and is in no row" for name in copies.keys() - _known(facts)),
        *(fault for row in facts.rows for fault in _faults(row, copies[row.message_id])),
        *_too_many(facts, copies),
        *_too_slow(facts, recoveries),
    ]
    return Findings(
        mails=len(facts.queued),
        kills=len(facts.kills),
        stops=len(facts.stops),
        lost=len(lost),
        twice=_twice(copies),
        in_doubt=sum(row.state == "in_doubt" for row in facts.rows),
        slowest_recovery_s=max(recoveries, default=0.0),
        breaches=breaches,
    )


def _known(facts: Facts) -> set[str]:
    return {row.message_id for row in facts.rows}


def _lost(facts: Facts, copies: Mapping[str, int]) -> Iterator[str]:
    for name in set(facts.queued) - _known(facts):
        yield f"{name} was queued and has no row"
    for row in facts.rows:
        if row.state in {"queued", "sending"}:
            yield f"{row.message_id} is left over, {row.state}"
        elif row.state != "in_doubt" and not copies[row.message_id]:
            yield f"{row.message_id} is {row.state} and was never accepted"


def _faults(row: Row, copies: int) -> Iterator[str]:
    name = f"{row.message_id} ({row.policy})"
    if row.state not in {"queued", "sending", "sent", "in_doubt"}:
        yield f"{name} ended as {row.state}: nothing was wrong with it"
    if row.state == "in_doubt" and not row.is_listed:
        yield f"{name} is in doubt and not listed"
    if copies > 1 + row.resends:
        yield f"{name} was sent {copies} times, {row.resends} of them counted as sent again"
    if row.policy == "hold" and row.resends:
        yield f"{name} was sent again without a person's word"
    if row.policy == "resend" and row.resends > 1:
        yield f"{name} was sent again more than once"


def _twice(copies: Mapping[str, int]) -> int:
    return sum(number - 1 for number in copies.values() if number > 1)


def _too_many(facts: Facts, copies: Mapping[str, int]) -> Iterator[str]:
    limit = (len(facts.kills) + len(facts.stops)) * facts.connections
    doubtful = sum(row.state == "in_doubt" for row in facts.rows)
    for what, number in {"sent twice": _twice(copies), "in doubt": doubtful}.items():
        if number > limit:
            yield f"{number} {what}: more than kills × open connections ({limit})"


def _recoveries(facts: Facts) -> Iterator[float]:
    """Yield, for every moment, the seconds until a mail went that was not yet on the wire."""
    moments = [moment for moment, _ in facts.accepted]
    for moment in _asked(facts):
        after = bisect_right(moments, moment + DYING_S)
        yield moments[after] - moment if after < len(moments) else float("inf")


def _too_slow(facts: Facts, recoveries: Sequence[float]) -> Iterator[str]:
    for moment, took in zip(_asked(facts), recoveries, strict=True):
        if took > facts.patience_s:
            yield f"no mail went for {took:.1f} s from {moment:.3f} on"


def _asked(facts: Facts) -> list[float]:
    return [*facts.kills, *facts.stops, *facts.asked]
