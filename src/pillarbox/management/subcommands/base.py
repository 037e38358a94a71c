"""The shape of a subcommand of ``manage.py pillarbox``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from django.core.management.base import CommandParser

from pillarbox.management.terminal import Terminal

OK = 0
FAILED = 1
USAGE = 2


class Subcommand(ABC):
    """One of them; `pillarbox.management.commands.pillarbox` finds it in `subcommands.ALL`."""

    name: str
    help: str
    """What it does, in one sentence and perhaps a second one."""
    failure: ClassVar[str] = ""
    """When its exit code is 1; 0 is that all is well, 2 that it was used wrongly."""
    checks_settings: ClassVar[bool] = True
    """Whether Django's system checks run before it."""

    @property
    def exit_codes(self) -> str:
        """The sentence about them in the help."""
        failed = f"; 1: {self.failure}" if self.failure else ""
        return f"Exit codes: 0: all well{failed}; 2: wrong usage."

    def add_arguments(self, parser: CommandParser) -> None:  # noqa: B027 - many have none
        """Add what is its own; all have ``--json``."""

    @abstractmethod
    def run(self, options: Mapping[str, Any], terminal: Terminal) -> int:
        """Do it and return the exit code. Raise CommandError for what a person can mend."""
