"""``pillarbox prune``: erases and deletes what is older than ``RETENTION``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from django.db import router

from pillarbox import retention
from pillarbox.management.subcommands.base import OK, Subcommand
from pillarbox.management.terminal import Terminal
from pillarbox.models import Message


class Prune(Subcommand):
    """Prunes in transactions of 1,000 messages, so it may be stopped at any time."""

    name = "prune"
    help = (
        'Erase the content and delete the rows of finished messages by PILLARBOX["RETENTION"]. '
        "Unfinished ones are never touched. The engine does it daily where it has periods."
    )

    def run(self, options: Mapping[str, Any], terminal: Terminal) -> int:
        """Prune, and report how much."""
        done = retention.Pruned()
        with terminal.progress("Pruning") as bar:
            for done in retention.prune(router.db_for_write(Message)):
                bar.set(done.erased + done.deleted + done.attachments)
        terminal.say(
            f"Content erased: {done.erased:,}; messages deleted: {done.deleted:,}; "
            f"attachments deleted: {done.attachments:,}."
        )
        terminal.data(dataclasses.asdict(done))
        return OK
