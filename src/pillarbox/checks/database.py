"""Checks the time zone of moments and the way in which SQLite is opened."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error
from django.db import connections, router

from pillarbox.models import Message


def alias_in_use() -> str:
    """Return the database that the messages are written to."""
    return router.db_for_write(Message)


def check_settings() -> Iterator[CheckMessage]:
    """Check what the settings tell, without a connection."""
    yield from _check_time()
    yield from _check_transactions()


def _check_time() -> Iterator[CheckMessage]:
    if not settings.USE_TZ:
        yield Error(
            "USE_TZ is False, so moments would be naive.",
            hint="Set USE_TZ = True; TIME_ZONE may be whatever it is.",
            id="pillarbox.E017",
        )
    alias = alias_in_use()
    zone = connections[alias].settings_dict.get("TIME_ZONE")
    if zone and connections[alias].vendor in {"mysql", "sqlite"}:
        yield Error(
            f'DATABASES["{alias}"]["TIME_ZONE"] is {zone!r}; its moments would not be in UTC.',
            hint="Leave it out.",
            id="pillarbox.E018",
        )


def _check_transactions() -> Iterator[CheckMessage]:
    alias = alias_in_use()
    mode = str(_sqlite_options(alias).get("transaction_mode") or "")
    if _is_sqlite_file(alias) and mode.upper() not in {"IMMEDIATE", "EXCLUSIVE"}:
        yield checks.Warning(
            f'The SQLite database "{alias}" begins its transactions late: with a worker beside '
            'the application, writes would fail with "database is locked".',
            hint=f'Set DATABASES["{alias}"]["OPTIONS"]["transaction_mode"] = "IMMEDIATE".',
            id="pillarbox.W002",
        )


def check_journal(alias: str) -> Iterator[CheckMessage]:
    """Ask a SQLite database for its journal, unless the settings have set it."""
    if _is_sqlite_file(alias) and _journal(alias) != "wal":
        init = "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL"
        yield checks.Warning(
            f'The SQLite database "{alias}" has no write-ahead log: whoever reads it stops the '
            "worker's writes.",
            hint=f'Set DATABASES["{alias}"]["OPTIONS"]["init_command"] = "{init}".',
            id="pillarbox.W001",
        )


def _journal(alias: str) -> str:
    """Return the journal's mode; a database that is yet to be made gets SQLite's default."""
    init = str(_sqlite_options(alias).get("init_command") or "")
    if re.search(r"journal_mode\s*[=(]\s*['\"]?wal\b", init, re.IGNORECASE):
        return "wal"
    name = str(connections[alias].settings_dict["NAME"])
    if not name.startswith("file:") and not os.path.exists(name):
        return "delete"
    with connections[alias].cursor() as cursor:
        cursor.execute("PRAGMA journal_mode")
        return str(cursor.fetchone()[0])


def _sqlite_options(alias: str) -> Mapping[str, Any]:
    options: Mapping[str, Any] = connections[alias].settings_dict.get("OPTIONS") or {}
    return options


def _is_sqlite_file(alias: str) -> bool:
    connection: Any = connections[alias]
    return connection.vendor == "sqlite" and not connection.is_in_memory_db()
