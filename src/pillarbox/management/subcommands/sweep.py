"""``pillarbox sweep``: the periodic job, for a cron where the engine has no periods."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from django.db import router

from pillarbox import jobs
from pillarbox.console import status
from pillarbox.management import watching
from pillarbox.management.subcommands.base import OK, Subcommand
from pillarbox.management.terminal import Terminal
from pillarbox.models import Message


class Sweep(Subcommand):
    """Runs `pillarbox.jobs.sweep` in this process."""

    name = "sweep"
    help = (
        "Take back what dead workers held, and deliver what no wake has found. "
        "The engine does it by itself; where it cannot, let cron do it every minute."
    )

    def run(self, options: Mapping[str, Any], terminal: Terminal) -> int:
        """Sweep, and say what is left."""
        using = router.db_for_write(Message)
        with watching.progress(terminal, using):
            jobs.sweep()
        left = [stream for stream in status.read(using).streams if stream.due]
        for stream in left:
            terminal.say(f"{stream.name}: {stream.due:,} still due.")
        terminal.say("Swept.")
        terminal.data({"due": [dataclasses.asdict(stream) for stream in left]})
        return OK
