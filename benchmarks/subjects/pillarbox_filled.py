"""Pillarbox's worker on a table that is full of other mail, finished or still queued."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

from benchmarks.mail import mails
from benchmarks.subjects.pillarbox_mail import Pillarbox

CLAIMED = 100
CLAIMS = 31


class Filled(Pillarbox):
    """So many finished mails, or so many queued of which every other one is due later."""

    drain_mails = 8000

    def __init__(
        self, name: str, title: str, *, finished: int = 0, queued: int = 0, cases: Sequence[str]
    ) -> None:
        self.name, self.title, self.cases = f"pillarbox_among_{name}", title, cases
        self.finished, self.queued = finished, queued
        self.setup = "1 × `manage.py pillarbox worker`, default settings"

    def prepare(self) -> None:
        """Fill the tables."""
        from benchmarks import filling

        seed = next(iter(mails(1)))
        if self.finished:
            self.enqueue(seed)
            filling.finished(self.finished)
        if self.queued:
            self.enqueue(seed)
            filling.queued(self.queued)

    def claim_ms(self) -> float:
        """Claim as a drain does, and give back what was claimed; return the median."""
        from django.db import router

        from pillarbox.delivery import claims, looks, ways
        from pillarbox.delivery.leases import Lease
        from pillarbox.engines.worker import Engine
        from pillarbox.models import Message

        using = router.db_for_write(Message)
        lease = Lease(Engine({}), using)
        lease.take()
        found, took_ms = ways.ways(claims.streams_to_serve(looks.survey(using))), []
        for _ in range(CLAIMS):
            start = time.perf_counter()
            batch = claims.claim(lease.id, using, found, CLAIMED)
            took_ms.append((time.perf_counter() - start) * 1000)
            assert len(batch.messages) == CLAIMED
            claims.give_back(lease.id, using, batch.messages)
        lease.drop()
        return median(took_ms)


SUBJECTS = (
    Filled("0", "an empty table", cases=("flat", "large")),
    Filled("100k", "100,000 finished mails", finished=100_000, cases=("flat",)),
    Filled("1m", "1 million finished mails", finished=1_000_000, cases=("flat",)),
    Filled("queue", "1 million queued, half of them for later", queued=1_000_000, cases=("flat",)),
    Filled("10m", "10 million finished mails", finished=10_000_000, cases=("large",)),
)
