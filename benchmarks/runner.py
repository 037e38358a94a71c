"""Runs the cases: the subjects in turn, the order turned round with each round, medians."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import django

from benchmarks import machine, servers, sinks
from benchmarks.bench import Bench, DoesNotRun
from benchmarks.scenarios.base import Case, Figures
from benchmarks.subjects.base import Subject

Say = Callable[[str], None]


@contextmanager
def running(share: float) -> Iterator[Bench]:
    """Run the servers of a run while the block lasts."""
    with (
        servers.folder() as folder,
        servers.postgres() as postgres,
        servers.redis_server() as (client, redis_pid),
    ):
        folder.chmod(0o755)
        port: int = client.get_connection_kwargs()["port"]
        certificate = sinks.make_certificate(folder)
        yield Bench(postgres, client, port, redis_pid, folder, certificate, share)


def run(bench: Bench, case: Case, subjects: Sequence[Subject], rounds: int, say: Say) -> Any:
    """Return the case's result, ready for JSON."""
    packages = {name for subject in subjects for name in subject.packages}
    described = machine.describe(packages, bench.server_versions())
    figures: dict[str, list[Figures]] = {subject.name: [] for subject in subjects}
    problems: dict[str, str] = {}
    for number in range(rounds):
        for subject in subjects if number % 2 == 0 else reversed(subjects):
            if subject.name in problems:
                continue
            say(f"{case.name}, round {number + 1}: {subject.title}")
            try:
                figures[subject.name].append(case.measure(bench, subject))
            except DoesNotRun as error:
                problems[subject.name] = f"does not run on Django {django.get_version()}: {error}"
                say(f"  {problems[subject.name]}")
            else:
                say(f"  {_line(figures[subject.name][-1])}")
    return {
        "case": case.name,
        "rounds": rounds,
        **described,
        "subjects": [_entry(s, figures[s.name], problems.get(s.name, "")) for s in subjects],
    }


def _entry(subject: Subject, rounds: list[Figures], problem: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": subject.name, "title": subject.title, "setup": subject.setup}
    if problem:
        return {**entry, "problem": problem}
    keys = rounds[0]
    medians = {key: _rounded(median(figures[key] for figures in rounds)) for key in keys}
    every = [{key: _rounded(figures[key]) for key in keys} for figures in rounds]
    return {**entry, "median": medians, "rounds": every}


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _line(figures: Figures) -> str:
    return ", ".join(f"{key} {_rounded(value):g}" for key, value in figures.items())
