"""``pillarbox pause`` and ``resume``: a stream stops and goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.core.management import CommandError
from django.core.management.base import CommandParser
from django.db import router

from pillarbox.conf import get_settings
from pillarbox.management import waking
from pillarbox.management.subcommands.base import OK, USAGE, Subcommand
from pillarbox.management.terminal import Terminal
from pillarbox.models import Message, Pause


class PauseStream(Subcommand):
    """Writes the `Pause` row of a stream."""

    name = "pause"
    help = "Pause a stream: its mail is queued and not sent. What is in hand is finished."
    done = "paused"

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the stream."""
        parser.add_argument("stream", metavar="STREAM", help="The name of a stream.")

    def run(self, options: Mapping[str, Any], terminal: Terminal) -> int:
        """Pause or resume it; doing so twice is no error."""
        has_changed = self.change(router.db_for_write(Pause), name := options["stream"])
        terminal.say(f"{name} is {'now' if has_changed else 'already'} {self.done}.")
        terminal.data({"stream": name, "state": self.done, "changed": has_changed})
        return OK

    def change(self, using: str, name: str) -> bool:
        """Pause it; return whether it was not paused before."""
        known, queued = get_settings().streams, Message.objects.using(using).filter(stream=name)
        if name not in known and not queued.exists():
            raise CommandError(f"No such stream; there are {', '.join(known)}.", returncode=USAGE)
        return Pause.objects.using(using).get_or_create(stream=name)[1]


class ResumeStream(PauseStream):
    """Deletes the `Pause` row of a stream, and wakes the engine for what has waited."""

    name = "resume"
    help = "Resume a paused stream: what waited is delivered now."
    done = "resumed"

    def change(self, using: str, name: str) -> bool:
        """Resume it; return whether it was paused before."""
        was_paused = Pause.objects.using(using).filter(stream=name).delete()[0] > 0
        waking.deliver_what_waited(using)
        return was_paused
