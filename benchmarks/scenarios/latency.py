"""How long after its commit a mail is at the mail server, while workers wait for it."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import quantiles

from benchmarks import sinks
from benchmarks.bench import Bench, DoesNotRun
from benchmarks.place import Place
from benchmarks.scenarios.base import Case, Figures
from benchmarks.sinks import Wire
from benchmarks.subjects.base import Subject

WARM_UP = 5
WARM_UP_FIRST = 10_000_000


@dataclass(frozen=True)
class Latency(Case):
    """A process queues at a steady rate; the moments are commit and the dot's arrival."""

    rate: int
    mails: int
    columns = {"p50_ms": "p50, ms", "p99_ms": "p99, ms", "max_ms": "longest, ms"}
    plotted = ("p50_ms", "p99_ms")
    more_is_better = False

    def measure(self, bench: Bench, subject: Subject) -> Figures:
        """Queue some mails until all is warm, then those that count."""
        count = bench.amount(self.mails)
        with sinks.wire() as sink:
            place = bench.place(subject, smtp_port=sink.port)
            with bench.workers(subject, place) as workers:
                warm_up = self._pace(bench, place, 5, WARM_UP, WARM_UP_FIRST)
                workers.wait(lambda: sink.count, WARM_UP)
                committed = self._pace(bench, place, self.rate, count, 0)
                workers.wait(lambda: sink.count, WARM_UP + count)
        return {**_quantiles(sink, committed, but=warm_up), "mails": count}

    def _pace(
        self, bench: Bench, place: Place, rate: int, count: int, first: int
    ) -> dict[str, float]:
        arguments = ("--rate", str(rate), "--count", str(count), "--first", str(first))
        answer: dict[str, dict[str, float]] = bench.child(place, "pace", *arguments)
        return answer["committed"]


def _quantiles(sink: Wire, committed: dict[str, float], but: dict[str, float]) -> Figures:
    if sink.arrived.keys() - but.keys() != committed.keys():
        raise DoesNotRun("Other mails came than were queued.")
    waits_ms = [(sink.arrived[to] - at) * 1000 for to, at in committed.items()]
    cuts = quantiles(waits_ms, n=100, method="inclusive")
    return {"p50_ms": cuts[49], "p99_ms": cuts[98], "max_ms": max(waits_ms)}


_SAME = "from the commit to the moment at which the mail server has read the final dot."

CASES = (
    Latency(
        "latency_5", "From commit to the wire at 5 mails a second", f"100 mails, {_SAME}", 5, 100
    ),
    Latency(
        "latency_200",
        "From commit to the wire at 200 mails a second",
        f"1,000 mails, {_SAME}",
        200,
        1000,
    ),
)
