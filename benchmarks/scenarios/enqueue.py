"""How fast mails are queued: one a transaction, or many at once; no worker runs."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.bench import Bench
from benchmarks.meter import server_cpu_s
from benchmarks.scenarios.base import Case, Figures
from benchmarks.subjects.base import Subject


@dataclass(frozen=True)
class Enqueue(Case):
    """One process, one connection to the database."""

    verb: str
    mails: int
    columns = {
        "per_s": "mails/s",
        "client_cpu_s_per_1000": "caller's CPU, s per 1,000",
        "database_cpu_s_per_1000": "database's CPU, s per 1,000",
        "client_peak_mb": "caller's peak memory, MB",
    }
    plotted = ("per_s",)

    def measure(self, bench: Bench, subject: Subject) -> Figures:
        """Let a fresh process queue them."""
        count = bench.amount(self.mails)
        place = bench.place(subject)
        before = server_cpu_s(bench.postgres.pid)
        figures: Figures = bench.child(place, self.verb, "--count", str(count))
        used = server_cpu_s(bench.postgres.pid) - before
        return {**figures, "database_cpu_s_per_1000": used / count * 1000, "mails": count}


CASES = (
    Enqueue(
        "enqueue_single",
        "Queue one mail at a time",
        "3,000 calls, each commits by itself; where the broker has the queue, nothing commits.",
        "single",
        3000,
    ),
    Enqueue(
        "enqueue_bulk",
        "Queue many mails at once",
        "5,000 mails, handed over in the way that is each one's fastest.",
        "bulk",
        5000,
    ),
)
