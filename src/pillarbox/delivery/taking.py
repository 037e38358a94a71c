"""How a drain that is woken starts, as one statement, on PostgreSQL: its row and a first survey.

The row is inserted with the first free slot, and not while another drain is idle: that one is to be
told to stay, see `leases`. Its COMMIT need not be flushed: what is claimed in the drain's name is
flushed later, and the row before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from django.db import connections

from pillarbox.delivery import database, looks
from pillarbox.delivery.looks import Survey
from pillarbox.models import Drain

_STATEMENT = """
WITH mine AS (
    INSERT INTO {drain} (
        id, host, pid, engine, slot, started_at, lease_until, stay_until, idle, closing
    )
    SELECT %s::uuid, %s::text, %s::integer, %s::text, free.slot,
        {now}, {now} + %s::interval, {now}, FALSE, FALSE
    FROM set_config('synchronous_commit', 'off', TRUE), (
        SELECT min(slot) AS slot FROM generate_series(1, %s::integer) AS slot
        WHERE slot NOT IN (SELECT slot FROM {drain} WHERE slot IS NOT NULL)
    ) AS free
    WHERE free.slot IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM {drain} WHERE slot IS NOT NULL AND idle
    )
    ON CONFLICT DO NOTHING RETURNING started_at
)
SELECT 't', to_char(started_at, 'YYYY-MM-DD"T"HH24:MI:SS.USOF'), NULL FROM mine
UNION ALL {survey}
"""


@dataclass(frozen=True)
class Taken:
    """A row that is there."""

    at: datetime
    """When it was inserted, by the database's clock."""
    survey: Survey


def is_possible(using: str) -> bool:
    """Whether there is such a statement, and it can be its own transaction."""
    return connections[using].vendor == "postgresql" and database.is_between(using)


def take_free_slot(using: str, who: Sequence[Any], lease: timedelta, slots: int) -> Taken | None:
    """Insert the row of ``who``: its id, host, process and engine; the lease lasts for ``lease``.

    None where all of the ``slots`` are taken, or a drain is idle, or another one was faster.
    Commits, unless it raises what the database raises: then nobody knows.
    """
    now, moment = looks.now_of(using)
    sql, names = _sql(using, now), looks.FIRST_NAMES
    parameters = [*who, *moment, *moment, lease, *moment, slots, *names]
    rows = database.execute(using, sql, parameters, prepare=True)
    taken = [at for kind, at, _ in rows if kind == "t"]
    if not taken:
        return None
    seen = [row for row in rows if row[0] != "t"]
    return Taken(datetime.fromisoformat(taken[0]), looks.survey(using, seen))


@cache
def _sql(using: str, now: str) -> str:
    table = connections[using].ops.quote_name(Drain._meta.db_table)
    return _STATEMENT.format(drain=table, now=now, survey=looks.survey_sql(using))
