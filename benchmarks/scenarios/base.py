"""What the runner asks of a scenario's case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    on_request: bool = field(default=False, kw_only=True)
    """Whether a full run leaves it out, and only ``--only`` with its name runs it."""
    columns: ClassVar[Mapping[str, str]]
    """The figures by their keys, with the titles of their columns; the first one is compared."""
    plotted: ClassVar[Sequence[str]]
    """The keys of the figures in the plot."""
    more_is_better: ClassVar[bool] = True
    ratio_title: ClassVar[str] = "Pillarbox is"
    """The title of the column that compares: how many times as good the reference's line is."""
    references: ClassVar[Sequence[str]] = ("pillarbox",)
    """The subject that the others are compared with: the first of these that was measured."""

    @property
    def figure(self) -> str:
        """The key of the figure that is compared."""
        return next(iter(self.columns))

    def measure(self, bench: Bench, subject: Subject) -> Figures:
        """Measure once. Raise DoesNotRun where the subject cannot do it."""
        raise NotImplementedError
