"""Whether a full table slows the drain: the same work among more and more rows."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.bench import Bench
from benchmarks.place import Place
from benchmarks.scenarios.base import Figures
from benchmarks.scenarios.drain import Drain


@dataclass(frozen=True)
class Flat(Drain):
    """The subjects are the same worker on tables of different sizes."""

    columns = {
        "per_s": "mails/s",
        "claim_ms": "a claim of 100, ms",
        "worker_cpu_s_per_1000": "worker's CPU, s per 1,000",
        "servers_cpu_s_per_1000": "database's CPU, s per 1,000",
        "peak_mb": "worker's peak memory, MB",
    }
    ratio_title = "the empty table is"
    references = ("pillarbox_among_0",)

    def look(self, bench: Bench, place: Place) -> Figures:
        """Time a claim in a process of its own, and tidy after it."""
        claim: Figures = bench.child(place, "claim")
        bench.settle(place)
        return claim


_ABOUT = (
    "One worker empties a queue in a table that has had mail before. Finished mails have their "
    "attempt and their recipient, end evenly over the last 365 days, and only those of the last "
    "30 days still have their content, as `RETENTION` leaves them by default. Queued mails have "
    "theirs. A claim of 100 is timed in a process of its own before the worker starts."
)

CASES = (
    Flat("flat", "Empty a queue in a full table", _ABOUT),
    # It takes many gigabytes and minutes.
    Flat("large", "Empty a queue in a table of 10 million mails", _ABOUT, on_request=True),
)
