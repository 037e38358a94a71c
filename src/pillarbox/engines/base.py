"""The contract of an engine: an alarm clock that runs one of the package's jobs in a worker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

from django.core.checks import CheckMessage

JOBS = (
    "pillarbox.jobs.deliver_due",
    "pillarbox.jobs.sweep",
    "pillarbox.jobs.prune",
)
SWEEP_INTERVAL = timedelta(seconds=30)


@dataclass(frozen=True)
class Deadline:
    """How long a drain may run, in seconds from its start; None is for ever.

    At ``drain_s`` it claims no more; what is in conversation at ``kill_s`` less 5 s is broken off.
    """

    drain_s: float | None = None
    kill_s: float | None = None


class Engine(ABC):
    """One task queue. ``options`` is ``PILLARBOX["ENGINE_OPTIONS"]``."""

    name: ClassVar[str]
    supports_delay: ClassVar[bool] = False
    supports_periodic: ClassVar[bool] = False
    is_immediate: ClassVar[bool] = False
    """Delivers on commit in the caller's process: no wakes, no drains, no row."""
    takes_slots: ClassVar[bool] = True
    """Its drains count against MAX_DRAINS."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options

    @abstractmethod
    def async_task(self, dotted_path: str, *, delay: timedelta | None = None) -> None:
        """Hand a job to the queue. Raise whatever the broker's client raises."""

    def deadline(self) -> Deadline:
        """Return how long this engine lets a drain run."""
        return Deadline()

    def register_sweep(self) -> None:
        """Register `pillarbox.jobs.sweep` as a periodic job, in the engine's native way."""

    def check(self) -> Sequence[CheckMessage]:
        """Return what is wrong with the engine's own settings, for ``manage.py check``."""
        return ()

    @abstractmethod
    def ping(self) -> str:
        """Reach the broker and return a line about it. Raise whatever its client raises."""
