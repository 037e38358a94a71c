"""The contract of an engine: an alarm clock that runs one of the package's jobs in a worker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import Any, ClassVar

from django.core.checks import CheckMessage, Error

JOBS = (
    "pillarbox.jobs.deliver_due",
    "pillarbox.jobs.sweep",
    "pillarbox.jobs.prune",
)
SWEEP_INTERVAL = timedelta(seconds=30)
DRAIN_S = 8.0
"""How long a drain runs in an engine that cannot tell its job that it is to stop."""
KILL_MARGIN_S = 5.0
"""How long before the engine's kill the conversations under way are broken off."""
BROKER_TIMEOUT_S = 0.5
"""How long the caller of ``send_email`` waits, at each step, for a broker that says nothing."""


@dataclass(frozen=True)
class Deadline:
    """How long a drain may run, in seconds from its start; None is for ever.

    At ``drain_s`` it claims no more; what is in conversation at ``kill_s`` less 5 s is broken off.
    ``kill_setting`` is the name of the setting that ``kill_s`` was read from.
    """

    drain_s: float | None = None
    kill_s: float | None = None
    kill_setting: str = ""

    @property
    def is_too_short(self) -> bool:
        """Whether the engine kills a drain before it has ended by itself."""
        if self.drain_s is None or self.kill_s is None:
            return False
        return self.kill_s <= self.drain_s + KILL_MARGIN_S


def import_jobs(**_: Any) -> None:
    """Have a worker process import the jobs as it starts: that takes longer than a wake's mail."""
    import_module("pillarbox.jobs")


class Engine(ABC):
    """One task queue. ``options`` is ``PILLARBOX["ENGINE_OPTIONS"]``."""

    name: ClassVar[str]
    supports_delay: ClassVar[bool] = False
    supports_periodic: ClassVar[bool] = False
    is_immediate: ClassVar[bool] = False
    """Delivers on commit in the caller's process: no wakes, no drains, no row."""
    takes_slots: ClassVar[bool] = True
    """Its drains count against MAX_DRAINS."""
    known_options: ClassVar[tuple[str, ...]] = ()
    """The keys that ``PILLARBOX["ENGINE_OPTIONS"]`` may have."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options

    @abstractmethod
    def async_task(self, dotted_path: str, *, delay: timedelta | None = None) -> None:
        """Hand a job to the queue. Raise whatever the broker's client raises."""

    def deadline(self) -> Deadline:
        """Return how long this engine lets a drain run."""
        return Deadline()

    def register_sweep(self, using: str) -> None:  # noqa: B027 - most engines need none
        """Register the periodic jobs where the engine keeps them in the database ``using``.

        Called by ``post_migrate``, once for each database. An engine that keeps them elsewhere
        registers them when it is imported.
        """

    def check(self) -> Sequence[CheckMessage]:
        """Return what is wrong with the engine's own settings, for ``manage.py check``.

        Reads settings alone and reaches no broker.
        """
        return [*self._check_options(), *self._check_deadline()]

    def _check_options(self) -> Iterator[CheckMessage]:
        known = ", ".join(self.known_options) or "none"
        for key in self.options:
            if key not in self.known_options:
                yield Error(
                    f'PILLARBOX["ENGINE_OPTIONS"] has the unknown key {key!r}.',
                    hint=f"The engine {self.name} has these options: {known}.",
                    id="pillarbox.E020",
                )

    def _check_deadline(self) -> Iterator[CheckMessage]:
        deadline = self.deadline()
        if deadline.is_too_short:
            yield Error(
                f"{deadline.kill_setting} is {deadline.kill_s:g} seconds: the engine would kill "
                f"a worker in mid-conversation, since a drain runs for {deadline.drain_s:g}.",
                hint=f"Set it to 60, and in any case above {DRAIN_S + KILL_MARGIN_S:g}.",
                id="pillarbox.E021",
            )

    @abstractmethod
    def ping(self) -> str:
        """Reach the broker and return a line about it. Raise whatever its client raises."""
