"""``pillarbox status``: the queue and the workers, at a glance or for a monitor."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandParser
from django.db import router

from pillarbox.console import status
from pillarbox.management.reports import show_status
from pillarbox.management.subcommands.base import FAILED, OK, Subcommand
from pillarbox.management.terminal import Terminal
from pillarbox.models import Message, State


class Status(Subcommand):
    """Counts by stream and state, the oldest due message, pauses, mailers, workers, doubts."""

    name = "status"
    help = (
        "Show how many messages are in which state, which streams are paused, which mailers are "
        "down, and who works."
    )
    failure = "with --max-wait, a due message waits longer than that"

    def add_arguments(self, parser: CommandParser) -> None:
        """Add what to count and when to be alarmed."""
        parser.add_argument(
            "--all",
            action="store_true",
            help="Count every finished message, and not only those of the last 24 hours; on a "
            "large table that takes a while.",
        )
        parser.add_argument(
            "--max-wait",
            type=float,
            metavar="SECONDS",
            help="Exit with 1 if a message that is due has waited for longer.",
        )

    def run(self, options: Mapping[str, Any], terminal: Terminal) -> int:
        """Report; 1 only where ``--max-wait`` is exceeded."""
        within = None if options["all"] else status.DAY
        now = status.read(router.db_for_write(Message), finished_within=within)
        show_status(now, terminal)
        terminal.data(
            {
                "streams": [dataclasses.asdict(stream) for stream in now.streams],
                "mailers": [dataclasses.asdict(mailer) for mailer in now.mailers],
                "workers": [dataclasses.asdict(worker) for worker in now.workers],
                "in_doubt": now.count(State.IN_DOUBT),
                "oldest_due_s": now.oldest_due_s,
                "finished_within_s": within.total_seconds() if within else None,
            }
        )
        limit = options["max_wait"]
        return FAILED if limit is not None and now.oldest_due_s > limit else OK
