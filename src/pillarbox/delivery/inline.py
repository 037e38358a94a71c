"""Delivery in the caller's thread and connection, for ``immediate``, tests and small tools."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from django.db import router

from pillarbox.delivery import claims
from pillarbox.delivery.claims import LeaseLost
from pillarbox.delivery.outage import safely
from pillarbox.delivery.senders.base import BATCH_MAX
from pillarbox.delivery.senders.inline import InlineSender
from pillarbox.delivery.ways import Way
from pillarbox.delivery.work import LOCKED_FIRST_S, Tally, Work
from pillarbox.engines import get_engine
from pillarbox.models import Message

logger = logging.getLogger("pillarbox.delivery")

LOCKED_PATIENCE_S = 1.0
"""How long the caller waits for a row that somebody's open transaction has locked."""


def deliver_inline(pks: Sequence[int] | None = None, *, using: str | None = None) -> Tally:
    """Deliver what is due now, or the due among ``pks``, in the caller's thread and connection.

    Neither threads nor a linger. ``using`` is the database, by default the routers' for `Message`.
    """
    using = using or router.db_for_write(Message)
    return _Inline(get_engine(), using).run(pks)


class _Inline(Work):
    """One run of `deliver_inline`."""

    def run(self, pks: Sequence[int] | None) -> Tally:
        self.lease.insert(slot=None)
        self.sender = InlineSender()
        self._pks = pks
        try:
            while self._claim():
                self._carry()
        except LeaseLost as lost:
            logger.warning("%s Nothing more of what it claimed is sent.", lost)
            self._record_the_last()
        finally:
            self.sender.close()
            self._end_trials()
            safely(self.using, self.lease.drop)  # so that it hides no error of the block
        return self.tally

    def _carry(self) -> None:
        """Send what was claimed; a message whose row stays locked for a second is left behind."""
        until = time.monotonic() + LOCKED_PATIENCE_S
        while self.sender.in_hand or self._is_unsettled or self._postponed:
            if not self.sender.in_hand and self._postponed:
                if time.monotonic() > until:
                    return  # recovery queues it again
                time.sleep(LOCKED_FIRST_S)
            self._offer_postponed()
            self._settle(self.sender.collect(0))
            self.lease.beat()

    def _record_the_last(self) -> None:
        """Record what the server said to a mail that took longer than the lease."""
        self.lease.is_lost = True  # so that nothing is begun any more
        self.sender.drop_waiting()
        self._settle(self.sender.collect(0))

    def _claim(self) -> bool:
        self._look_for_ways()
        self.circuits.look()
        self._try_mailers()
        batch = self._take(self._open_ways(), BATCH_MAX)
        self._offer(batch)
        return bool(self.sender.in_hand or batch.expired)

    def _has_due(self, found: Sequence[Way]) -> bool:
        if self._pks is None:
            return super()._has_due(found)
        return claims.is_due(self.using, found, self._pks)

    def _take(self, found: Sequence[Way], limit: int) -> claims.Batch:
        if self._pks is None:
            return claims.claim(self.lease.id, self.using, found, limit, by_rate=False)
        return claims.claim_these(self.lease.id, self.using, found, self._pks)
