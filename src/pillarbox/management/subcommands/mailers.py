"""``pillarbox mailers``: the mailers and their circuits; pauses and resumes one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from django.core.management import CommandError
from django.core.management.base import CommandParser
from django.db import router

from pillarbox.console import status
from pillarbox.delivery import circuits
from pillarbox.management import waking
from pillarbox.management.reports import show_mailers
from pillarbox.management.subcommands.base import OK, USAGE, Subcommand
from pillarbox.management.terminal import Terminal
from pillarbox.models import Circuit


class Mailers(Subcommand):
    """Shows the `Circuit` of every mailer, and writes an operator's pause into it."""

    name = "mailers"
    help = "Show which mailers carry, which are down or paused; pause and resume one."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the pause and its end."""
        change = parser.add_mutually_exclusive_group()
        change.add_argument(
            "--pause", metavar="ALIAS", help="Let nothing more go by this mailer: the next does it."
        )
        change.add_argument(
            "--resume", metavar="ALIAS", help="Let mail go by it again; what waited goes now."
        )

    def run(self, options: Mapping[str, Any], terminal: Terminal) -> int:
        """Pause or resume, where that is asked for, then report; twice is no error."""
        using = router.db_for_write(Circuit)
        known = [mailer.alias for mailer in status.mailers(using)]
        asked = options["pause"] or options["resume"]
        if asked is not None and asked not in known:
            text = f"No such mailer; there are {', '.join(known)}."
            raise CommandError(text, returncode=USAGE)
        if options["pause"]:
            circuits.pause(asked, using)
        if options["resume"] and circuits.resume(asked, using):
            waking.deliver_what_waited(using)
        found = status.mailers(using)
        show_mailers(found, terminal)
        terminal.data([dataclasses.asdict(mailer) for mailer in found])
        return OK
