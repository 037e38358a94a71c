"""Eight processes that fight over one queue, each with its own drains, and what they did, in files.

``python -m tests.support.contention DIRECTORY SEED SECONDS`` forks them; they work until the file
``stop`` is in the directory. Each writes one line of JSON for whatever it did, after the commit.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TextIO

PROCESSES = 8
BATCH = 20
GROUP = 8
LOSES_ITS_LEASE = 0.08
FORGETS = 0.3
"""How often a drain that lost its lease also dies; otherwise its results come late."""


class Contender:
    """One process."""

    def __init__(self, log: TextIO, seed: str) -> None:
        self.log = log
        self.random = random.Random(seed)

    def work(self, stop: Path, until: float) -> None:
        """Take batch after batch until it is told to stop."""
        from pillarbox.delivery import claims
        from tests.support.delivery_model import USING, Desk

        desk = Desk()
        while not stop.exists() and time.monotonic() < until:
            claims.recover(USING)
            claimed = desk.claim(BATCH)
            for message in claimed:
                self.note("claimed", message.pk, desk)
            if not claimed:
                time.sleep(0.02)
            if not self._deliver(desk):
                desk = Desk()

    def _deliver(self, desk: object) -> bool:
        """Begin, converse and record by groups; return False if the lease is lost on the way."""
        from tests.support.delivery_model import Desk

        assert isinstance(desk, Desk)
        is_lost = False
        while desk.claimed or desk.begun or desk.answered:
            if self.random.random() < LOSES_ITS_LEASE:
                is_lost = True
                self._lose_lease(desk)
                if self.random.random() < FORGETS:
                    return False
            entry = desk.commit(GROUP)
            for parcel in entry.begun:
                self.note("begun", parcel.message.pk, desk)
            for result, verdict in entry.settled:
                self.note(verdict.state.value, result.parcel.message.pk, desk)
            for parcel in list(desk.begun):
                self._converse(desk, parcel)
        return not is_lost

    def _lose_lease(self, desk: object) -> None:
        from pillarbox.delivery import claims
        from pillarbox.models import DatabaseNow, Drain
        from tests.support.delivery_model import USING, Desk

        assert isinstance(desk, Desk)
        past = DatabaseNow(timedelta(seconds=-1))
        Drain.objects.filter(pk=desk.lease.id).update(lease_until=past)
        claims.recover(USING)

    def _converse(self, desk: object, parcel: object) -> None:
        from pillarbox.delivery.senders.base import Parcel, Result
        from tests.support.delivery_model import ANSWERS, Desk

        assert isinstance(desk, Desk)
        assert isinstance(parcel, Parcel)
        answer = ANSWERS[self.random.choice(sorted(ANSWERS))]
        to = list(parcel.kinds)
        for address in to[answer.takes]:
            self.note("taken", parcel.message.pk, desk, address)
        desk.begun.remove(parcel)
        desk.answered.append(Result(parcel, answer.heard(to)))

    def note(self, what: str, pk: int, desk: object, address: str = "") -> None:
        """Write down what was committed, or what the server took."""
        print(json.dumps([what, pk, str(desk.lease.id), address]), file=self.log)  # type: ignore[attr-defined]
