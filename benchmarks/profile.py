"""Profiles one worker that empties a queue: ``python -m benchmarks.profile --label after``.

CPU a mail is measured without a profiler; py-spy says what it goes into, part by part. Where
valgrind is installed it counts the worker's instructions, which no other load disturbs.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import kept, machine, parts, runner, subjects
from benchmarks.bench import Bench, DoesNotRun
from benchmarks.place import ROOT, manage
from benchmarks.scenarios.drain import LOCAL
from benchmarks.servers import program
from benchmarks.subjects.base import Subject

MAILS = 8000
ROUNDS = 5
SAMPLES_PER_S = 250
COUNTED = (200, 600)
"""Instructions are counted of two drains, and their difference is told: no start is in it."""
PATIENCE_S = 900
_FIGURES = ("per_s", "worker_cpu_s_per_1000", "servers_cpu_s_per_1000", "peak_mb")
_COLLECTED = re.compile(r"Collected : (\d+)")
_DELIVER = manage("pillarbox", "deliver")


def main() -> None:
    """Measure, sample, count, and keep it all."""
    options = _parser().parse_args()
    subject = subjects.find("pillarbox")
    with runner.running(options.mails / subject.drain_mails) as bench:
        result = {
            "label": options.label,
            **machine.describe(["django-pillarbox", "py-spy"], bench.server_versions()),
            **_measured(bench, subject),
            **_sampled(bench, subject, options.mails),
            **_counted(bench, subject),
        }
    path = kept.write(result, f"profile-{options.label}", Path(options.out))
    print(f"{path.read_text()}{path}")


def _measured(bench: Bench, subject: Subject) -> dict[str, Any]:
    """Return the figures of some drains without a profiler: medians, and each."""
    rounds = [LOCAL.measure(bench, subject) for _ in range(ROUNDS)]
    every = [{key: round(figures[key], 4) for key in _FIGURES} for figures in rounds]
    return {"median": {k: median(one[k] for one in every) for k in _FIGURES}, "rounds": every}


def _sampled(bench: Bench, subject: Subject, mails: int) -> dict[str, Any]:
    """Return the shares of the drain's CPU by part and layer, in percent."""
    stacks = bench.folder / "stacks.txt"
    spy = [str(Path(sys.executable).with_name("py-spy")), "record", "--format", "raw"]
    spy += ["--full-filenames", "--rate", str(SAMPLES_PER_S), "--output", str(stacks), "--"]
    _deliver(bench, subject, mails, spy)
    counted = parts.count(parts.stacks(stacks.read_text()))
    total = sum(sum(layers.values()) for layers in counted.values())
    shares = {
        part: {layer: round(100 * layers[layer] / total, 1) for layer in parts.LAYERS}
        for part, layers in counted.items()
    }
    return {"samples": total, "shares": shares}


def _counted(bench: Bench, subject: Subject) -> dict[str, Any]:
    """Return the worker's instructions a mail, or why they are not known."""
    try:
        valgrind = [program("valgrind"), "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    except FileNotFoundError:
        return {"instructions_per_mail": None, "instructions": "not available: no valgrind here"}
    few, many = (_instructions(bench, subject, mails, valgrind) for mails in COUNTED)
    per_mail = (many - few) / (COUNTED[1] - COUNTED[0])
    return {"instructions_per_mail": round(per_mail), "instructions": "counted by valgrind"}


def _instructions(bench: Bench, subject: Subject, mails: int, valgrind: list[str]) -> int:
    said = _deliver(bench, subject, mails, valgrind)
    found = _COLLECTED.search(said)
    if found is None:
        raise DoesNotRun(said[-500:])
    return int(found[1])


def _deliver(bench: Bench, subject: Subject, mails: int, under: list[str]) -> str:
    """Let one drain empty the queue under a profiler; return what that has said."""
    print(f"{mails} mails under {Path(under[0]).name}", flush=True)
    with LOCAL.filled(bench, subject, mails) as (sink, place):
        done = subprocess.run(
            [*under, *_DELIVER],
            env=place.environment(),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        if done.returncode or sink.count < mails:
            raise DoesNotRun(f"{sink.count} of {mails} mails came: {done.stderr[-500:]}")
    return done.stderr


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("--label", choices=["before", "after"], default="after")
    parser.add_argument("--mails", type=int, default=MAILS)
    parser.add_argument("--out", default=str(kept.RESULTS), help="where the result goes")
    return parser


if __name__ == "__main__":
    main()
