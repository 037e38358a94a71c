"""``pillarbox retry``, ``cancel``, ``hold`` and ``release``: a verb of the outbox on many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.core.management import CommandError
from django.core.management.base import CommandParser
from django.db import router

from pillarbox.console.operations import BY_NAME
from pillarbox.management import selection, turning
from pillarbox.management.subcommands.base import USAGE, Subcommand
from pillarbox.management.terminal import Terminal, is_interactive
from pillarbox.models import Message


class Verb(Subcommand):
    """One of the verbs; its name is that of the operation in the admin."""

    failure = "a message was refused, or is not there"

    def __init__(self, name: str, help: str) -> None:
        self.name = name
        self.help = help
        self.operation = BY_NAME[name]

    def add_arguments(self, parser: CommandParser) -> None:
        """Add what says which messages."""
        selection.add_arguments(parser, self.operation)

    def run(self, options: Mapping[str, Any], terminal: Terminal) -> int:
        """Turn each message in a transaction of its own, and report those refused."""
        chosen = selection.select(options, self.operation, router.db_for_write(Message))
        if chosen.is_all and not options["no_input"] and not self._is_confirmed(chosen):
            raise CommandError("Nothing is done.")
        return turning.turn(chosen, self.operation, terminal)

    def _is_confirmed(self, chosen: selection.Selection) -> bool:
        if not is_interactive():
            raise CommandError("--all without --no-input needs a terminal.", returncode=USAGE)
        count = chosen.queryset.count()
        return input(f"{self.operation.label} {count:,} messages? [y/N] ").lower() in {"y", "yes"}


VERBS = (
    Verb("retry", "Queue failed messages again, for the recipients that did not get them."),
    Verb("cancel", "Cancel messages that are not sent yet. This is final."),
    Verb("hold", "Keep messages back until somebody releases them."),
    Verb("release", "Put messages that are held back into the queue."),
)
