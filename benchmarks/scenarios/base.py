"""What the runner asks of a scenario's case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from benchmarks.bench import Bench
from benchmarks.subjects.base import Subject

Figures = dict[str, float]


@dataclass(frozen=True)
class Case:
    """One table and one plot: the same work for every subject that takes part."""

    name: str
    title: str
    about: str
    """One sentence: what was done and what is counted."""
    figure: ClassVar[str]
    """The key of the figure that is compared."""
    more_is_better: ClassVar[bool] = True

    def measure(self, bench: Bench, subject: Subject) -> Figures:
        """Measure once. Raise DoesNotRun where the subject cannot do it."""
        raise NotImplementedError
