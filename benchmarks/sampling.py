"""Asks PostgreSQL how Pillarbox's tables do: rows, dead ones, vacuums, sizes, waits."""

from __future__ import annotations

from typing import Any

import psycopg

from benchmarks.servers import Postgres

TABLES = ("message", "recipient", "attempt")

_TABLES = """
    SELECT relname, n_live_tup AS rows, n_dead_tup AS dead, autovacuum_count AS vacuums,
        n_tup_upd AS updates, n_tup_hot_upd AS hot_updates, n_tup_del AS deletes,
        round(pg_table_size(relid) / 1e6, 2)::float AS table_mb,
        round(pg_indexes_size(relid) / 1e6, 2)::float AS indexes_mb
    FROM pg_stat_user_tables WHERE relname = ANY(%s)"""
_INDEXES = """
    SELECT indexrelname, round(pg_relation_size(indexrelid) / 1e6, 2)::float
    FROM pg_stat_user_indexes WHERE relname = 'pillarbox_message' ORDER BY 1"""
_QUEUE = """
    SELECT count(*) FILTER (WHERE state = 'queued'), count(*) FILTER (WHERE state = 'in_doubt')
    FROM pillarbox_message WHERE state IN ('queued', 'in_doubt')"""
_WAITS = """
    SELECT percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (
        ORDER BY extract(epoch FROM attempt.started_at - message.created_at) * 1000)
    FROM pillarbox_message AS message JOIN pillarbox_attempt AS attempt
        ON attempt.message_id = message.id
    WHERE state = 'sent' AND finished_at > now() - interval '1 minute'"""
_BLOAT = """
    SELECT round(dead_tuple_percent::numeric, 1)::float AS dead_percent,
        round(free_percent::numeric, 1)::float AS free_percent FROM pgstattuple(%s)"""


def sample(postgres: Postgres, database: str) -> dict[str, Any]:
    """Return the state of the tables and the queue, and the waits of the last minute."""
    with postgres.connect(database) as connection:
        ((queued, in_doubt),) = connection.execute(_QUEUE)
        ((waits,),) = connection.execute(_WAITS)
        p50, p99 = waits or (0, 0)
        return {
            "queued": queued,
            "in_doubt": in_doubt,
            "wait_p50_ms": round(p50, 2),
            "wait_p99_ms": round(p99, 2),
            "tables": _tables(connection),
            "indexes_mb": dict(connection.execute(_INDEXES).fetchall()),
        }


def bloat(postgres: Postgres, database: str) -> dict[str, Any] | None:
    """Return the shares of dead tuples and free space by table; None without pgstattuple."""
    with postgres.connect(database) as connection:
        known = "SELECT 1 FROM pg_available_extensions WHERE name = 'pgstattuple'"
        if connection.execute(known).fetchone() is None:
            return None
        connection.execute("CREATE EXTENSION IF NOT EXISTS pgstattuple")
        cursor = connection.cursor(row_factory=psycopg.rows.dict_row)
        return {t: cursor.execute(_BLOAT, [f"pillarbox_{t}"]).fetchone() for t in TABLES}


def _tables(connection: psycopg.Connection[Any]) -> dict[str, Any]:
    cursor = connection.cursor(row_factory=psycopg.rows.dict_row)
    rows = cursor.execute(_TABLES, [[f"pillarbox_{table}" for table in TABLES]]).fetchall()
    return {row.pop("relname").removeprefix("pillarbox_"): row for row in rows}
