"""The engine without a worker, for tests and small tools: every job runs in the caller."""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar

from django.utils.module_loading import import_string

from pillarbox.engines import base


class Engine(base.Engine):
    """Delivers on commit, in the caller's thread and connection; the caller waits for it.

    Nothing comes later by itself: a retry waits for ``manage.py pillarbox sweep``.
    """

    name: ClassVar[str] = "immediate"
    is_immediate: ClassVar[bool] = True
    takes_slots: ClassVar[bool] = False

    def async_task(self, dotted_path: str, *, delay: timedelta | None = None) -> None:
        """Run the job now and return when it has ended."""
        import_string(dotted_path)()

    def ping(self) -> str:
        """Say that there is nothing to reach."""
        return "no broker: mail is delivered on commit, by the process that queued it"
