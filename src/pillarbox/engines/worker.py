"""The engine without a library: ``manage.py pillarbox worker`` looks at the database by itself."""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar

from pillarbox.engines import base


class Engine(base.Engine):
    """A loop that looks for due mail, recovers and sweeps, so that nobody needs to wake it.

    It stops at a signal, which it handles itself, and so has no deadline.
    """

    name: ClassVar[str] = "worker"
    supports_periodic: ClassVar[bool] = True
    takes_slots: ClassVar[bool] = False

    def async_task(self, dotted_path: str, *, delay: timedelta | None = None) -> None:
        """Do nothing: a running worker finds what is due within a tick of its loop."""

    def ping(self) -> str:
        """Say that there is nothing to reach."""
        return "no broker: `manage.py pillarbox worker` looks at the database by itself"
