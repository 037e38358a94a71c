"""What both ways of draining share: from a claimed batch to recorded results."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

from pillarbox.delivery import claims, outcomes, parcels, report
from pillarbox.delivery.leases import Lease
from pillarbox.delivery.ledger import Entry, Ledger
from pillarbox.delivery.outcomes import MailerDown, Stage
from pillarbox.delivery.senders.base import Begin, Parcel, Result, Sender
from pillarbox.delivery.verdicts import MAILER_DOWN_FOR
from pillarbox.engines.base import Engine

logger = logging.getLogger("pillarbox.delivery")

BATCH_MAX = 100
LOCKED_FIRST_S = 0.02
LOCKED_MAX_S = 0.5
"""When to try again to begin a message whose row is locked: MariaDB locks rows for a moment that a
claim only passes by, a verb in somebody's open transaction for as long as that lasts."""

Tally = Counter[str]
"""How many attempts ended how: the names of `Attempt.Result`, and ``expired``."""


class Work:
    """One run: what it holds, and what its connections have said and is not yet committed."""

    sender: Sender

    def __init__(self, engine: Engine, using: str) -> None:
        self.engine = engine
        self.using = using
        self.lease = Lease(engine, using)
        self.ledger = Ledger(self.lease.id, using)
        self.tally: Tally = Counter()
        self._begins: list[Parcel] = []
        self._results: list[Result] = []
        self._postponed: list[tuple[float, Parcel]] = []
        self._down_until: dict[str, float] = {}

    def _offer(self, batch: claims.Batch) -> None:
        for message in batch.expired:
            self.tally["expired"] += 1
            report.expired(message)
        self.sender.offer([parcels.address(message) for message in batch.messages])

    def _settle(self, said: Sequence[Begin | Result]) -> None:
        """Record and begin in one commit, then answer the connections and tell the world.

        Raise what the database raises; nothing is lost by that, and the next call tries again.
        """
        self._begins += [word.parcel for word in said if isinstance(word, Begin)]
        self._results += [word for word in said if isinstance(word, Result)]
        if not self._begins and not self._results:
            return
        if not self.lease.is_fresh:
            self._refuse_begins()
        self._read_contents()
        entry = self.ledger.commit(self._begins, self._results)
        self._begins, self._results = [], []
        self._answer(entry)
        self._tell(entry)

    def _refuse_begins(self) -> None:
        """Without a fresh lease nothing is begun: nothing else fences a socket."""
        stale, self._begins = self._begins, []
        for parcel in stale:
            self.sender.permit(parcel, allowed=False)
        if not self.lease.is_lost:
            self._give_back(stale)

    def _read_contents(self) -> None:
        unread = [parcel for parcel in self._begins if parcel.email is None]
        for parcel, why in parcels.fill(unread, self.using).items():
            self._begins.remove(parcel)
            self._results.append(_unreadable(parcel, why))
            self.sender.permit(parcel, allowed=False)

    def _answer(self, entry: Entry) -> None:
        for parcel in entry.begun:
            self.sender.permit(parcel, allowed=True)
        for parcel in (*entry.lost, *entry.locked):
            self.sender.permit(parcel, allowed=False)
        for parcel in entry.locked:
            parcel.locked_s = min(2 * parcel.locked_s or LOCKED_FIRST_S, LOCKED_MAX_S)
            self._postponed.append((time.monotonic() + parcel.locked_s, parcel))

    def _tell(self, entry: Entry) -> None:
        down = set()
        for result, verdict in entry.settled:
            self.tally[report.result_name(result)] += 1
            report.settled(result, verdict, self.lease.id)
            if isinstance(result.outcome, MailerDown):
                down.add(result.parcel.mailer)
        for result in entry.refused:
            report.refused(result)
        for mailer in down:
            # The others would find the same: they wait as long, and cost nobody a time-out.
            self._down_until[mailer] = time.monotonic() + MAILER_DOWN_FOR.total_seconds()
            self._give_back(self.sender.drop_waiting(mailer), after=MAILER_DOWN_FOR)

    def _give_back(self, dropped: Sequence[Parcel], after: timedelta = timedelta(0)) -> int:
        messages = [parcel.message for parcel in dropped]
        return claims.give_back(self.lease.id, self.using, messages, after=after)


def _unreadable(parcel: Parcel, why: Exception) -> Result:
    logger.error("The content of message %d cannot be read.", parcel.message.pk, exc_info=why)
    return Result(parcel, outcomes.classify(why, stage=Stage.RENDER))
