"""The system checks: everything that settings can get wrong, under stable ids; it changes nothing.

They run with every ``manage.py`` command of a project, so they read settings and reach no server.
The one that asks a database is tagged ``database``: Django runs it with ``migrate``, ``test`` and
``check --database``, and ``manage.py pillarbox doctor`` runs them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register
from django.core.exceptions import ImproperlyConfigured

from pillarbox import conf
from pillarbox.checks import addresses, database, keeping, mailers
from pillarbox.checks.ids import CHECKS
from pillarbox.conf import Problem
from pillarbox.engines import get_engine

__all__ = ["CHECKS", "TAG", "check_database", "check_settings", "settings_problems"]

TAG = "pillarbox"


def settings_problems() -> list[Problem]:
    """Return what is wrong in ``PILLARBOX`` itself, or that its engine cannot be loaded."""
    return _unreadable() or _without_engine()


def _unreadable() -> list[Problem]:
    return conf.read(getattr(settings, "PILLARBOX", {}))[1]


def _without_engine() -> list[Problem]:
    try:
        get_engine()
    except ImproperlyConfigured as error:
        text, _, hint = str(error).partition(". ")
        return [Problem("pillarbox.E016", f"{text}.", hint)]
    return []


@register(TAG)
def check_settings(**_: Any) -> list[CheckMessage]:
    """Check everything that can be known from the settings alone."""
    problems = settings_problems()
    found: list[CheckMessage] = [Error(it.text, hint=it.hint, id=it.id) for it in problems]
    found += [*database.check_settings(), *addresses.check_sender()]
    if not _unreadable():
        found += [*mailers.check(), *keeping.check()]
        found += [*addresses.check_redirection(), *addresses.check_error_mail()]
    if not problems:
        found += get_engine().check()
    return found


@register(TAG, Tags.database)
def check_database(databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """Ask SQLite for its journal, where it keeps the messages."""
    alias = database.alias_in_use()
    return list(database.check_journal(alias)) if alias in (databases or ()) else []
