"""``pillarbox deliver``: one drain in this process, whatever the engine is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db import router

from pillarbox.delivery.drain import drain
from pillarbox.engines import worker
from pillarbox.management import stopping, watching
from pillarbox.management.subcommands.base import FAILED, OK, Subcommand
from pillarbox.management.terminal import Terminal
from pillarbox.models import Message


class Deliver(Subcommand):
    """Delivers what is due now and exits."""

    name = "deliver"
    help = "Deliver what is due now, in this process, and exit."
    failure = "something that was due has not been sent"

    def run(self, options: Mapping[str, Any], terminal: Terminal) -> int:
        """Drain as a `worker` does, so that no other drain is handed the work instead."""
        using = router.db_for_write(Message)
        with stopping.by_signals() as stop, watching.progress(terminal, using):
            tally = drain(engine=worker.Engine({}), stop=stop)
        terminal.say(f"Delivered: {watching.summary(tally)}.")
        terminal.data(dict(tally))
        return OK if set(tally) <= {"sent"} else FAILED
