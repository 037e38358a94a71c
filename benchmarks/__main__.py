"""The command line: ``python -m benchmarks``, or ``make bench``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from benchmarks import kept, report, runner, scenarios, subjects
from benchmarks.place import ROOT
from benchmarks.scenarios.base import Case
from benchmarks.subjects.base import Subject

ROUNDS = 3
QUICK_SHARE = 0.1
BUSY = 1.5


def main() -> int:
    """Run what was asked for; print the tables, keep the results."""
    options = _parser().parse_args()
    started = time.monotonic()
    cases = [case for case in scenarios.ALL if wanted(case, options.only)]
    if not cases:
        print("There is no such case.", file=sys.stderr)
        return 2
    if (load := os.getloadavg()[0]) > BUSY:
        print(f"This machine is busy (load average {load:.1f}): the figures will not be true.")
    with runner.running(QUICK_SHARE if options.quick else 1.0) as bench:
        for case in cases:
            chosen = _subjects(case, options.subjects)
            result = runner.run(
                bench, case, chosen, options.rounds or (1 if options.quick else ROUNDS), _say
            )
            path = kept.write(result, kept.by_series(case.name, result), _folder(options))
            print(f"\n{report.terminal(case, result)}\n{path}\n")
    print(f"That took {(time.monotonic() - started) / 60:.1f} minutes.")
    return 0


def _subjects(case: Case, names: str) -> list[Subject]:
    return [
        subject
        for subject in subjects.ALL
        if case.name.startswith(tuple(subject.cases))
        and subject.name in (names.split(",") if names else [subject.name])
    ]


def wanted(case: Case, only: str) -> bool:
    """Whether a run has the case, given the starts of names that it is limited to, if any."""
    if case.on_request:
        return case.name in only.split(",")
    return not only or case.name.startswith(tuple(only.split(",")))


def _folder(options: argparse.Namespace) -> Path:
    if options.out:
        return Path(options.out)
    whole = not (options.quick or options.subjects)
    return kept.RESULTS if whole else ROOT / "build" / "benchmarks"


def _say(line: str) -> None:
    print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the mails, one round")
    parser.add_argument(
        "--only", default="", help="cases by the start of their names: drain,enqueue_bulk"
    )
    parser.add_argument("--subjects", default="", help="subjects by name: pillarbox,post_office")
    parser.add_argument("--rounds", type=int, default=0, help=f"{ROUNDS} by default")
    parser.add_argument(
        "--out",
        default="",
        help="where the results go; a part of a run is never put beside whole ones",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
