"""``pillarbox doctor``: examines the whole way and names a remedy for what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandParser

from pillarbox.management.doctor import examine
from pillarbox.management.doctor.findings import Finding, Grade
from pillarbox.management.subcommands.base import FAILED, OK, Subcommand
from pillarbox.management.terminal import Terminal, duration

MARKS = {Grade.GOOD: ("✓", "SUCCESS"), Grade.CAUTION: ("!", "WARNING"), Grade.BAD: ("✗", "ERROR")}


class Doctor(Subcommand):
    """Settings, database, queue, mailers, engine, worker, and with ``--send`` a real mail."""

    name = "doctor"
    help = (
        "Examine settings, database, queue, every mailer (connect, TLS, login, NOOP), the engine "
        "and its broker, and whether a worker is alive. With --send, time a mail on its whole way."
    )
    failure = "something failed; each line says what to do"
    checks_settings = False

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the mail to send and the patience."""
        parser.add_argument("--send", metavar="ADDRESS", help="Send one mail to this address.")
        parser.add_argument(
            "--wait",
            type=float,
            default=10.0,
            metavar="SECONDS",
            help="How long to wait for a worker, and for the mail (default: %(default)g).",
        )

    def run(self, options: Mapping[str, Any], terminal: Terminal) -> int:
        """Report each finding as it is made; 1 if any is bad."""
        findings = []
        for finding in examine(options["wait"], options["send"]):
            findings.append(finding)
            self._show(finding, terminal)
        is_well = all(finding.grade is not Grade.BAD for finding in findings)
        terminal.say("\nAll is well." if is_well else "\nSomething is wrong: see ✗.")
        terminal.data({"ok": is_well, "findings": [finding.as_dict() for finding in findings]})
        return OK if is_well else FAILED

    def _show(self, finding: Finding, terminal: Terminal) -> None:
        mark, style = MARKS[finding.grade]
        took = f" ({duration(finding.took_s)})" if finding.took_s is not None else ""
        terminal.say(f"{mark} {finding.topic}: {finding.text}{took}", style=style)
        if finding.remedy:
            terminal.say(f"  → {finding.remedy}")
