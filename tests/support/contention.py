"""Processes that fight over one queue, each with drains of its own; what they did goes to files.

``python -m tests.support.contention DIRECTORY SECONDS`` forks eight of them. They work until the
file ``stop`` is in the directory, or for so many seconds, and write a line of JSON for whatever
they did, after its commit. The clock is not stopped here: what waits for seconds waits for moments.
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

import django

PROCESSES = 8
BATCH = 20
GROUP = 8
LOSES_ITS_LEASE = 0.2
GOES_WELL = 0.6
DIES = 0.3
"""How often a drain that has lost its lease forgets all; else its results come late."""
SOON = timedelta(milliseconds=100)


def main() -> None:
    """Set Django up, fork before any connection is made, and wait for all."""
    django.setup()
    directory, until = Path(sys.argv[1]), time.monotonic() + float(sys.argv[2])
    fork = multiprocessing.get_context("fork")
    processes = [
        fork.Process(target=_contend, args=(directory, number, until))
        for number in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    print("started", flush=True)
    for process in processes:
        process.join()
    sys.exit(max(abs(process.exitcode or 0) for process in processes))


def _contend(directory: Path, number: int, until: float) -> None:
    from pillarbox.delivery import doubts, retry, verdicts

    retry.STEPS, retry.EVERY = (SOON,) * 5, SOON
    doubts.RESEND_AFTER = verdicts.PASSED_BY_FOR = SOON
    with (directory / f"{number}.jsonl").open("w") as log:
        _Contender(log, random.Random(number)).work(directory / "stop", until)


class _Contender:
    """One process: a drain, and when that has lost its lease the next one."""

    def __init__(self, log: TextIO, chance: random.Random) -> None:
        from tests.support.delivery_model import Desk

        self.log = log
        self.chance = chance
        self.desk = Desk()

    def work(self, stop: Path, until: float) -> None:
        from pillarbox.delivery import recovery
        from tests.support.delivery_model import USING, Desk

        while not stop.exists() and time.monotonic() < until:
            recovery.recover(USING)
            claimed = self.desk.claim(BATCH)
            for message in claimed:
                self.note("claimed", message.pk)
            if not self.deliver() or self.desk.is_lost:
                self.desk = Desk()
            elif not claimed:
                time.sleep(0.02)

    def deliver(self) -> bool:
        """Begin, talk and record, group by group; return False once the lease is lost."""
        desk, has_lease = self.desk, True
        while desk.claimed or desk.begun or desk.answered:
            if has_lease and self.chance.random() < LOSES_ITS_LEASE:
                has_lease = False
                self.lose_lease()
                if self.chance.random() < DIES:
                    break
            self.talk()
            entry = desk.commit(GROUP)
            for parcel in entry.begun:
                self.note("begun", parcel.message.pk)
            for result, verdict in entry.settled:
                self.note(verdict.state.value, result.parcel.message.pk)
        return has_lease

    def lose_lease(self) -> None:
        """Be thought dead, and have everything taken away."""
        from pillarbox.delivery import recovery
        from pillarbox.models import DatabaseNow, Drain
        from tests.support.delivery_model import USING

        past = DatabaseNow(timedelta(seconds=-1))
        Drain.objects.filter(pk=self.desk.lease.id).update(lease_until=past)
        recovery.recover(USING)

    def talk(self) -> None:
        from tests.support.delivery_model import ANSWERS

        for parcel in list(self.desk.begun):
            is_good = self.chance.random() < GOES_WELL
            answer = ANSWERS["taken" if is_good else self.chance.choice(sorted(ANSWERS))]
            for address in self.desk.hear(parcel, answer):
                self.note("taken", parcel.message.pk, address)

    def note(self, what: str, pk: int, address: str = "") -> None:
        """Write down what was committed, or what the server took."""
        print(json.dumps([what, pk, str(self.desk.lease.id), address]), file=self.log)


if __name__ == "__main__":
    main()
