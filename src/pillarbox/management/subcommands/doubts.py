"""``pillarbox doubts`` and ``resolve``: what nobody knows to be delivered, and a person's word."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandParser
from django.db import router

from pillarbox.console import doubts
from pillarbox.console.operations import BY_NAME
from pillarbox.management import selection, turning
from pillarbox.management.reports import show_doubt
from pillarbox.management.subcommands.base import OK, Subcommand
from pillarbox.management.terminal import Terminal
from pillarbox.models import Message


class Doubts(Subcommand):
    """Lists the messages in doubt."""

    name = "doubts"
    help = (
        "List the messages in doubt: what is known of each, and what to look for in the mail "
        "server's log."
    )

    def run(self, options: Mapping[str, Any], terminal: Terminal) -> int:
        """Report, the oldest first."""
        found = doubts.describe(list(doubts.all_in_doubt(router.db_for_write(Message))))
        for doubt in found:
            show_doubt(doubt, terminal)
        terminal.say(f"{len(found):,} in doubt.")
        terminal.data([dataclasses.asdict(doubt) for doubt in found])
        return OK


class Resolve(Subcommand):
    """Settles doubts."""

    name = "resolve"
    help = "Settle messages in doubt: they were sent, or are to be sent again."
    failure = "a message was refused, or is not there"

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the numbers and the decision."""
        parser.add_argument("ids", nargs="+", type=int, metavar="ID", help="Numbers of messages.")
        decision = parser.add_mutually_exclusive_group(required=True)
        decision.add_argument("--sent", action="store_true", help="They arrived.")
        decision.add_argument("--resend", action="store_true", help="They did not: send again.")

    def run(self, options: Mapping[str, Any], terminal: Terminal) -> int:
        """Resolve each, and report those refused."""
        operation = BY_NAME["resolve_sent" if options["sent"] else "resolve_resend"]
        asked = {"ids": options["ids"], "stream": None, "to": None, "all": False}
        chosen = selection.select(asked, operation, router.db_for_write(Message))
        return turning.turn(chosen, operation, terminal)
