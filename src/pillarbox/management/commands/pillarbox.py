"""``manage.py pillarbox``: parses the arguments and hands over to a subcommand."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from pillarbox.checks import TAG
from pillarbox.delivery.senders.connections import pool
from pillarbox.management.subcommands import ALL, Subcommand
from pillarbox.management.terminal import Terminal

_BY_NAME = {subcommand.name: subcommand for subcommand in ALL}


class Command(BaseCommand):
    """The one command of Pillarbox."""

    help = "Look after the mail queue."
    requires_system_checks = [TAG]

    def add_arguments(self, parser: CommandParser) -> None:
        """Give every subcommand a parser of its own."""
        parsers = parser.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")
        for subcommand in ALL:
            own = parsers.add_parser(
                subcommand.name,
                help=subcommand.help.partition(". ")[0].partition(": ")[0],
                description=subcommand.help,
                epilog=subcommand.exit_codes,
            )
            _add_common_arguments(own)
            subcommand.add_arguments(own)

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Run our system checks first, except before a subcommand that makes them itself."""
        if not self._chosen(options).checks_settings:
            options["skip_checks"] = True
        return super().execute(*args, **options)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the subcommand; exit with its code unless that is 0."""
        terminal = Terminal(self.stdout, self.stderr, self.style, as_json=options["json"])
        try:
            code = self._chosen(options).run(options, terminal)
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        finally:
            pool.close()  # a process that is about to end takes leave of its mail servers
        if code:
            sys.exit(code)

    def _chosen(self, options: dict[str, Any]) -> Subcommand:
        return _BY_NAME[options["subcommand"]]


def _add_common_arguments(parser: CommandParser) -> None:
    """Add ``--json``, and Django's own options, which may stand before the subcommand too."""
    parser.add_argument("--json", action="store_true", help="Report as JSON on stdout.")
    for flags in (("--settings",), ("--pythonpath",)):
        parser.add_argument(*flags, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument(
        *("-v", "--verbosity"),
        type=int,
        choices=(0, 1, 2, 3),
        default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,
    )
    for flag in ("--traceback", "--no-color", "--force-color", "--skip-checks"):
        parser.add_argument(
            flag, action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
