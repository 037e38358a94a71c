"""Delivery in the caller's thread and connection, for ``immediate``, tests and small tools."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from django.db import router

from pillarbox.delivery import claims, ways
from pillarbox.delivery.claims import LeaseLost
from pillarbox.delivery.senders.inline import InlineSender
from pillarbox.delivery.work import BATCH_MAX, Tally, Work
from pillarbox.engines import get_engine
from pillarbox.models import Message

logger = logging.getLogger("pillarbox.delivery")


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
        try:
            while self._claim(pks):
                while self.sender.in_hand or self._results:
                    self._settle(self.sender.collect(0))
                    self.lease.beat()
        except LeaseLost as lost:
            logger.warning("%s Nothing more of what it claimed is sent.", lost)
        finally:
            self.sender.close()
            self.lease.drop()
        return self.tally

    def _claim(self, pks: Sequence[int] | None) -> bool:
        found = ways.ways(claims.streams_in_queue(self.using), claims.hints_in_queue(self.using))
        if pks is None:
            batch = claims.claim(self.lease.id, self.using, found, BATCH_MAX)
        else:
            batch = claims.claim_these(self.lease.id, self.using, found, pks)
        self._offer(batch)
        return bool(batch.messages or batch.expired)
