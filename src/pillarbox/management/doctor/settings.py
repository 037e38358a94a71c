"""Examines the settings: the system checks, and the sender's address."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from django.conf import settings
from django.core.checks import WARNING, CheckMessage

from pillarbox.checks import check_database, check_settings, database
from pillarbox.conf import get_settings
from pillarbox.management.doctor.findings import Finding, bad, caution, good


def examine() -> Iterator[Finding]:
    """Run the checks that need no connection."""
    messages = check_settings()
    yield from _findings(messages)
    if not any(message.is_serious() for message in messages):
        yield good("settings", f"No error; mail is from {settings.DEFAULT_FROM_EMAIL}")
        yield from _redirection()


def examine_journal() -> Iterator[Finding]:
    """Run the check that asks the database."""
    yield from _findings(check_database(databases=[database.alias_in_use()]))


def _findings(messages: Iterable[CheckMessage]) -> Iterator[Finding]:
    for message in messages:
        if message.is_silenced():
            continue
        text, hint = f"{message.msg} ({message.id})", message.hint or ""
        if message.is_serious():
            yield bad("settings", text, hint)
        elif message.level >= WARNING:
            yield caution("settings", text, hint)
        else:
            yield good("settings", f"{text} {hint}")


def _redirection() -> Iterator[Finding]:
    redirect_to = get_settings().redirect_to
    if redirect_to:
        yield caution(
            "settings",
            f"All mail goes to {', '.join(redirect_to)} instead of its recipients.",
            'Leave out PILLARBOX["REDIRECT_TO"] where that is not meant, as in production.',
        )
