"""How a drain that is woken starts, as one statement, on PostgreSQL: row, survey and first claim.

The row is inserted with the first free slot, and not while another drain is idle: that one is to be
told to stay, see `leases`. It claims at once where that can be no mistake: all mail in the queue is
of the stream that is expected to have some, and nothing is paused or unwell. Its COMMIT need not be
flushed: what is claimed in the drain's name is flushed later, and the row before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from django.db import connections

from pillarbox.delivery import claiming, database, looks
from pillarbox.delivery.looks import Survey
from pillarbox.delivery.ways import Way
from pillarbox.models import Drain, Message

_STATEMENT = """
WITH lease AS (
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
    ON CONFLICT DO NOTHING RETURNING id, started_at
), seen (kind, name, further) AS (
    {survey}
), gate AS (
    SELECT 1 FROM lease, seen WHERE kind = 's' AND further IS NULL
        AND NOT EXISTS (SELECT 1 FROM seen WHERE kind <> 's' AND name IS NOT NULL)
), {take}
SELECT told.kind, told.name, told.further, {columns}
FROM (
    SELECT 't' AS kind, to_char(started_at, 'YYYY-MM-DD"T"HH24:MI:SS.USOF') AS name, NULL AS further
    FROM lease UNION ALL SELECT * FROM seen
) AS told LEFT JOIN claimed ON told.kind = 't'
{order}
"""


@dataclass(frozen=True)
class Taken:
    """A row that is there."""

    at: datetime
    """When it was inserted, by the database's clock."""
    survey: Survey
    messages: list[Message]
    """What was claimed."""


def take_free_slot(
    using: str, who: Sequence[Any], lease: timedelta, slots: int, way: Way | None
) -> Taken | None:
    """Insert the row of ``who``: its id, host, process and engine; the lease lasts for ``lease``.

    Messages of ``way``, up to its limit, are claimed where all that is queued is of its stream.
    None where all of the ``slots`` are taken, or a drain is idle, or another one was faster.
    Commits, unless it raises what the database raises: then nobody knows.
    """
    now, moment = looks.now_of(using)
    row = [*who, *moment, *moment, lease, *moment, slots]
    stream, limit = (way.stream, way.limit or 0) if way is not None else ("", 0)
    claim = claiming.take_parameters(moment, stream, [], limit)
    parameters = [*row, *looks.FIRST_NAMES, *claim]
    read = claiming.to_read()
    rows = database.execute(using, _sql(using, now, read), parameters, prepare=True)
    taken = [(at, values) for kind, at, _, *values in rows if kind == "t"]
    if not taken:
        return None
    seen = [row[:3] for row in rows if row[0] != "t"]
    claimed = [values for _, values in taken]
    return Taken(
        datetime.fromisoformat(taken[0][0]),
        looks.survey(using, seen),
        claiming.messages_of(using, who[0], way, read, claimed) if way is not None else [],
    )


@cache
def _sql(using: str, now: str, read: tuple[str, ...]) -> str:
    return _STATEMENT.format(
        drain=connections[using].ops.quote_name(Drain._meta.db_table),
        now=now,
        survey=looks.survey_sql(using),
        take=claiming.take_sql(using, "", now, read, gate="gate"),
        columns=claiming.columns(using, "claimed", read),
        order=claiming.ORDER,
    )
