"""How fast a full queue is emptied, and what that costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from benchmarks import sinks
from benchmarks.bench import Bench
from benchmarks.meter import server_cpu_s, stat
from benchmarks.place import Place
from benchmarks.scenarios.base import Case, Figures
from benchmarks.sinks import Sink
from benchmarks.subjects.base import Subject


@dataclass(frozen=True)
class Drain(Case):
    """The queue is filled first, then the workers start; counted is what the mail server saw."""

    connections: int = 0
    is_remote: bool = False
    wants_tls: bool = False
    columns = {
        "per_s": "mails/s",
        "worker_cpu_s_per_1000": "workers' CPU, s per 1,000",
        "servers_cpu_s_per_1000": "database's and Redis's CPU, s per 1,000",
        "peak_mb": "workers' peak memory, MB",
    }
    plotted = ("per_s",)
    references: ClassVar[Sequence[str]] = ("pillarbox_2", "pillarbox")

    def measure(self, bench: Bench, subject: Subject) -> Figures:
        """Count from the first mail's arrival to the last one's: nobody's start counts."""
        full = subject.remote_mails if self.is_remote else subject.drain_mails
        count = bench.amount(full) // 2 * 2
        with self.filled(bench, subject, count) as (sink, place):
            more = self.look(bench, place)
            with bench.workers(subject, place, count) as workers:
                workers.wait(lambda: sink.count, 1)
                before = _servers_cpu_s(bench), workers.meter.cpu_s()
                workers.wait(lambda: sink.count, count)
                used = workers.meter.cpu_s() - before[1]
                servers = _servers_cpu_s(bench) - before[0]
                peak_mb = workers.meter.peak_mb
        return {
            "per_s": _rate(sink, count),
            "worker_cpu_s_per_1000": used / count * 1000,
            "servers_cpu_s_per_1000": servers / count * 1000,
            "peak_mb": peak_mb,
            "mails": count,
            **more,
        }

    @contextmanager
    def filled(self, bench: Bench, subject: Subject, count: int) -> Iterator[tuple[Sink, Place]]:
        """Run the mail server; make a place with so many mails in the queue, all on the disk."""
        certificate = bench.certificate if self.wants_tls else ""
        with self._sink(certificate) as (sink, port):
            place = bench.place(
                subject, smtp_port=port, connections=self.connections, certificate=certificate
            )
            if subject.queues:
                bench.child(place, "bulk", "--count", str(count))
            bench.settle(place)
            yield sink, place

    def look(self, bench: Bench, place: Place) -> Figures:
        """Measure what there is to measure before the workers start."""
        return {}

    @contextmanager
    def _sink(self, certificate: str) -> Iterator[tuple[Sink, int]]:
        with sinks.wire(certificate) if self.wants_tls else sinks.postfix() as sink:
            if not self.is_remote:
                yield sink, sink.port
                return
            with sinks.delayed(sink.port) as port:
                yield sink, port


def _rate(sink: Sink, count: int) -> float:
    (first_at, first) = sink.progress[0]
    (last_at, last) = next(seen for seen in sink.progress if seen[1] >= count)
    return (last - first) / (last_at - first_at)


def _servers_cpu_s(bench: Bench) -> float:
    return server_cpu_s(bench.postgres.pid) + stat(bench.redis_pid)[2]


LOCAL = Drain(
    "drain_local",
    "Empty a queue, the mail server near",
    "Postfix's `smtp-sink` on the same machine.",
)
CASES = (
    LOCAL,
    Drain(
        "drain_remote",
        "Empty a queue, the mail server 20 ms away",
        "Postfix's `smtp-sink` behind a proxy that holds everything for 10 ms each way; "
        "20 connections for all that can have more than one.",
        connections=20,
        is_remote=True,
    ),
    Drain(
        "drain_tls",
        "Empty a queue over STARTTLS with AUTH",
        "The benchmark's own server in Python on the same machine, which bounds the bare loop too.",
        wants_tls=True,
    ),
)
