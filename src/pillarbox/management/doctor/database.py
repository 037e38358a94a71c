"""Examines the database of the messages, its tables and its clock, and what waits in it."""

from __future__ import annotations

import selectors
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

from django.db import DatabaseError, InterfaceError, connections, router
from django.db.migrations.executor import MigrationExecutor

from pillarbox.console import doubts, status
from pillarbox.console.status import StreamStatus
from pillarbox.delivery.listening import LOOK_OFTEN_S
from pillarbox.engines import get_engine, notices
from pillarbox.management.doctor.findings import Finding, bad, caution, good, reason
from pillarbox.management.terminal import duration
from pillarbox.models import Message, State, database_now

CLOCK_TOLERANCE_S = 5.0
NOTICE_WITHIN_S = 1.0

_DURABILITY = {
    "postgresql": ("SHOW synchronous_commit", "synchronous_commit", {"off"}),
    "mysql": (
        "SELECT @@innodb_flush_log_at_trx_commit",
        "innodb_flush_log_at_trx_commit",
        {"0", "2"},
    ),
    "sqlite": ("PRAGMA synchronous", "synchronous", {"0"}),
}
"""How each vendor is asked whether a commit waits for the disk, and the answers that mean no."""


def examine() -> Iterator[Finding]:
    """Connect, and look for tables that are missing and for a clock that is off."""
    alias = router.db_for_write(Message)
    connection, started = connections[alias], time.monotonic()
    name = f"{connection.vendor} ({alias})"
    try:
        connection.ensure_connection()
        yield good("database", f"{name} answers", time.monotonic() - started)
        executor = MigrationExecutor(connection)
        missing = executor.migration_plan(executor.loader.graph.leaf_nodes("pillarbox"))
        if missing:
            names = ", ".join(f"{it.app_label}.{it.name}" for it, _ in missing)
            yield bad("database", f"Not migrated: {names}.", "Run `manage.py migrate`.")
            return
        yield from _clock(alias)
        yield from _durability(alias)
        if get_engine().name == "worker" and notices.exist(alias):
            yield from _notices(alias)
    except (DatabaseError, InterfaceError) as error:
        took_s = time.monotonic() - started
        remedy = f'Start it, or correct DATABASES["{alias}"].'
        yield bad("database", f"{name}: {reason(error)}", remedy, took_s)


def _clock(alias: str) -> Iterator[Finding]:
    ahead_s = (database_now(alias) - datetime.now(UTC)).total_seconds()
    if abs(ahead_s) > CLOCK_TOLERANCE_S:
        side = "ahead of" if ahead_s > 0 else "behind"
        yield caution(
            "database",
            f"Its clock is {duration(abs(ahead_s))} {side} this host's: Date headers and send_at "
            "are off by that.",
            "Set both by NTP.",
        )


def _durability(alias: str) -> Iterator[Finding]:
    question, name, weak = _DURABILITY[connections[alias].vendor]
    with connections[alias].cursor() as cursor:
        cursor.execute(question)
        value = str(cursor.fetchone()[0]).lower()
    if value in weak:
        yield caution(
            "database",
            f"{name} is {value}: after a power cut the mark that a mail was begun may be missing, "
            "and the mail is then sent twice without a word.",
            "Leave it at its default if that is not meant.",
        )


def _notices(alias: str) -> Iterator[Finding]:
    started, word = time.monotonic(), uuid.uuid4().hex
    with notices.Ear(alias) as ear, selectors.DefaultSelector() as selector:
        selector.register(ear, selectors.EVENT_READ)
        notices.notify(alias, word)
        while (left_s := started + NOTICE_WITHIN_S - time.monotonic()) > 0:
            if selector.select(left_s) and word in ear.words():
                yield good("database", "Commits wake the workers", time.monotonic() - started)
                return
    yield caution(
        "database",
        f"No NOTIFY arrives where LISTEN was said: the workers look every {LOOK_OFTEN_S * 1000:g} "
        "ms instead of being woken.",
        f'Let DATABASES["{alias}"] of the workers lead past a pooler of transactions.',
    )


def examine_queue() -> Iterator[Finding]:
    """Say what waits, and name streams that are paused or have left the settings, and doubts."""
    now = status.read(router.db_for_write(Message))
    due = sum(stream.due for stream in now.streams)
    wait = f", the oldest for {duration(now.oldest_due_s)}" if now.oldest_due_s else ""
    yield good("queue", f"{now.count(State.QUEUED):,} queued, {due:,} of them due{wait}")
    for stream in now.streams:
        yield from _stream(stream)
    if doubtful := doubts.all_in_doubt(router.db_for_write(Message)).count():
        text = f"{doubtful:,} messages in doubt: perhaps delivered, nobody knows."
        if old := doubts.count_old(router.db_for_write(Message)):
            text += f" {old:,} of them wait for a decision for more than a day."
        remedy = "See `manage.py pillarbox doubts`, and settle them with `resolve`."
        yield caution("queue", text, remedy)


def _stream(stream: StreamStatus) -> Iterator[Finding]:
    if stream.is_paused:
        yield caution(
            "queue",
            f'The stream "{stream.name}" is paused; {stream.due:,} of its messages are due.',
            f"`manage.py pillarbox resume {stream.name}` lets them go.",
        )
    waiting = stream.counts[State.QUEUED] + stream.counts[State.HELD]
    if not stream.is_known and waiting:
        yield caution(
            "queue",
            f'{waiting:,} messages are in the stream "{stream.name}", which has left the settings; '
            'they are delivered as "default".',
            'Define it again in PILLARBOX["STREAMS"] if that is not meant.',
        )
