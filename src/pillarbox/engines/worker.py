"""The engine without a library: ``manage.py pillarbox worker`` watches the database by itself."""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar

from django.db import router

from pillarbox.engines import base, notices
from pillarbox.models import Message


class Engine(base.Engine):
    """A loop that looks for due mail, recovers and sweeps, so that nobody needs to wake it.

    On PostgreSQL a commit wakes it all the same, to spare it the looking and the mail the wait.
    It stops at a signal, which it handles itself, and so has no deadline.
    """

    name: ClassVar[str] = "worker"
    supports_periodic: ClassVar[bool] = True
    takes_slots: ClassVar[bool] = False

    def async_task(self, dotted_path: str, *, delay: timedelta | None = None) -> None:
        """Give notice on PostgreSQL; elsewhere a running worker finds what is due within 50 ms.

        Raise what the database raises.
        """
        using = router.db_for_write(Message)
        if dotted_path == "pillarbox.jobs.deliver_due" and notices.exist(using):
            notices.notify(using)

    def ping(self) -> str:
        """Say that there is nothing to reach."""
        return "no broker: `manage.py pillarbox worker` watches the database by itself"
