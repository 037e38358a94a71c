"""Fills Pillarbox's tables with mail, in SQL: each row is a copy of the one mail that is queued."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from django.db import connection
from django.db.backends.utils import CursorWrapper

from pillarbox.models import Message

_AGE = "interval '365 days' * (1 - n / {count}.0)"
_EACH = {
    "message_id": "'<' || md5(n::text) || '@example.org>'",
    "first_recipient": "'reader-' || n || '@example.org'",
}
_FINISHED = {
    **_EACH,
    "state": "'sent'",
    "attempts": "1",
    "mailer": "'smtp'",
    **dict.fromkeys(("date", "created_at", "due_at", "retry_since"), f"now() - {_AGE}"),
    "finished_at": f"now() - {_AGE}",
    "content": f"CASE WHEN {_AGE} < interval '30 days' THEN content ELSE '' END",
}
_QUEUED = {
    **_EACH,
    # Every other one is due within the next day, the rest since as long.
    "due_at": "now() + interval '1 day' * (n / {count}.0) * (1 - n % 2 * 2)",
}
_INDEXES = """
    SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid)
    FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
    WHERE relname LIKE 'pillarbox\\_%' AND NOT indisunique"""
_TRAILS = (
    """INSERT INTO pillarbox_attempt (message_id, mailer, server, drain, started_at, took_ms,
            result, stage, code, enhanced_code, reply)
        SELECT id, mailer, '127.0.0.1:25', gen_random_uuid(), finished_at, 3,
            'sent', 'dot', 250, '2.0.0', '2.0.0 Ok' FROM pillarbox_message ORDER BY id""",
    """INSERT INTO pillarbox_recipient (message_id, kind, address, state, code, enhanced_code,
            reply, updated_at)
        SELECT id, 'to', first_recipient, 'sent', 250, '2.0.0', '2.0.0 Ok', finished_at
        FROM pillarbox_message ORDER BY id""",
)


def finished(count: int) -> None:
    """Put in so many sent mails in place of the queued one, with their trails."""
    with _filling() as cursor:
        _copy(cursor, count, _FINISHED)
        for statement in _TRAILS:
            cursor.execute(statement)


def queued(count: int) -> None:
    """Put in so many queued mails in place of the one, half of them due later."""
    with _filling() as cursor:
        _copy(cursor, count, _QUEUED)


@contextmanager
def _filling() -> Iterator[CursorWrapper]:
    """Do without the indexes that are no constraints meanwhile, and tidy up in the end.

    To build them of ten million rows takes minutes, to keep them up with each row an hour. Every
    copy of the database then has the hint bits and the statistics of now.
    """
    with connection.cursor() as cursor:
        cursor.execute(_INDEXES)
        indexes = cursor.fetchall()
        for name, _ in indexes:
            cursor.execute(f"DROP INDEX {name}")
        # No look-up for each foreign key: the keys are read from the table that they lead to.
        cursor.execute("SET session_replication_role = replica")
        yield cursor
        cursor.execute("RESET session_replication_role")
        for _, definition in indexes:
            cursor.execute(definition)
        cursor.execute("VACUUM ANALYZE")


def _copy(cursor: CursorWrapper, count: int, changes: Mapping[str, str]) -> None:
    fields = [field for field in Message._meta.concrete_fields if not field.primary_key]
    columns = [str(field.column) for field in fields]
    names = ", ".join(f'"{column}"' for column in columns)
    values = ", ".join(changes.get(column, f'"{column}"').format(count=count) for column in columns)
    cursor.execute(
        f"INSERT INTO pillarbox_message ({names}) SELECT {values}"
        f" FROM pillarbox_message, generate_series(1, {count}) AS n"
    )
    cursor.execute(
        "DELETE FROM pillarbox_message WHERE id = (SELECT min(id) FROM pillarbox_message)"
    )
