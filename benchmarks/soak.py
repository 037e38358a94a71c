"""Runs one worker under a steady load for long: ``python -m benchmarks.soak --minutes 60``.

Every minute it prunes and writes down how the tables, the queue and the worker do.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import kept, machine, runner, sampling, sinks
from benchmarks.bench import Bench, DoesNotRun, Workers
from benchmarks.meter import memory_mb, server_cpu_s
from benchmarks.place import ROOT, Place, child
from benchmarks.sinks import Sink
from benchmarks.subjects.pillarbox_soaked import PRUNE, SOAKED

MINUTE_S = 60.0


class Soak:
    """One run."""

    def __init__(self, bench: Bench, sink: Sink, place: Place, workers: Workers) -> None:
        self.bench, self.sink, self.place, self.workers = bench, sink, place, workers
        self.samples: list[dict[str, Any]] = []
        self._seen = self._counters()

    def watch(self, minutes: int, load: subprocess.Popen[bytes]) -> None:
        """Take a sample each minute and prune after it. Raise DoesNotRun if the load ends."""
        start = time.monotonic()
        for minute in range(1, minutes + 1):
            time.sleep(max(0.0, start + minute * MINUTE_S - time.monotonic()))
            self.samples.append({"minute": minute, **self._sample()})
            print(_line(self.samples[-1]), flush=True)
            if load.poll():
                raise DoesNotRun(f"What queues the mail has ended with {load.returncode}.")
            subprocess.run(
                PRUNE,
                env=self.place.environment(),
                cwd=ROOT,
                check=True,
                stdout=subprocess.DEVNULL,
            )

    def _sample(self) -> dict[str, Any]:
        before, self._seen = self._seen, self._counters()
        mails, worker_s, database_s = (
            now - then for now, then in zip(self._seen, before, strict=True)
        )
        worker_mb = sum(memory_mb(process.pid) for process in self.workers.processes)
        return {
            "mails": int(self._seen[0]),
            "worker_mb": round(worker_mb, 2),
            "worker_cpu_s_per_1000": round(worker_s / max(mails, 1) * 1000, 4),
            "database_cpu_s_per_1000": round(database_s / max(mails, 1) * 1000, 4),
            **sampling.sample(self.bench.postgres, self.place.database),
        }

    def _counters(self) -> tuple[float, float, float]:
        """Return mails, and the worker's and the database's CPU seconds until now."""
        database_s = server_cpu_s(self.bench.postgres.pid)
        return self.sink.count, self.workers.meter.cpu_s(), database_s


def main() -> None:
    """Run it and keep the result."""
    options = _parser().parse_args()
    with runner.running(1.0) as bench:
        result = {
            "minutes": options.minutes,
            "rate": options.rate,
            "setup": SOAKED.setup,
            **machine.describe(SOAKED.packages, bench.server_versions()),
            **_soaked(bench, options.minutes, options.rate),
        }
    print(kept.write(result, kept.by_series("soak", result), Path(options.out)))


def _soaked(bench: Bench, minutes: int, rate: float) -> dict[str, Any]:
    with sinks.postfix() as sink:
        place = bench.place(SOAKED, smtp_port=sink.port)
        bench.settle(place)
        with bench.workers(SOAKED, place) as workers, _load(place, minutes, rate) as load:
            soak = Soak(bench, sink, place, workers)
            soak.watch(minutes, load)
            bloat = sampling.bloat(bench.postgres, place.database)
    return {"samples": soak.samples, "bloat": bloat}


@contextmanager
def _load(place: Place, minutes: int, rate: float) -> Iterator[subprocess.Popen[bytes]]:
    """Queue so many mails a second while the block lasts, each in a transaction of its own."""
    # A minute more than is watched: the last sample is taken under load, too.
    count = round((minutes + 1) * MINUTE_S * rate)
    command = child("pace", "--rate", str(rate), "--count", str(count))
    load = subprocess.Popen(command, env=place.environment(), cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        yield load
    finally:
        load.terminate()
        load.wait(20)


def _line(sample: dict[str, Any]) -> str:
    message = sample["tables"]["message"]
    return (
        f"minute {sample['minute']}: {sample['mails']:,} mails, {sample['queued']} queued, "
        f"waits {sample['wait_p50_ms']:g} and {sample['wait_p99_ms']:g} ms, "
        f"worker {sample['worker_mb']:g} MB; {message['rows']:,} rows, {message['dead']:,} dead, "
        f"{message['vacuums']} vacuums, {message['table_mb']:g} + {message['indexes_mb']:g} MB"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--rate", type=float, default=100, help="mails a second")
    parser.add_argument("--out", default=str(kept.RESULTS), help="where the result goes")
    return parser


if __name__ == "__main__":
    main()
