"""Writes drafts as rows of `Message`: by one INSERT each or for many, or by COPY on PostgreSQL.

The statements are made by `pillarbox.outbox.statements` and `copying`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connections, transaction
from django.db.models.signals import post_save, pre_save

from pillarbox.models import Message, clock, made
from pillarbox.outbox import copying, preparing
from pillarbox.outbox.drafts import Draft
from pillarbox.outbox.statements import (
    BORN,
    CONTENT,
    Row,
    all_values_of,
    created_at,
    statements_of,
    values_of,
)

_PACKET_CHARS = 2**20
"""Far below what MariaDB takes in one statement (``max_allowed_packet``, 16 MiB)."""


class Born(NamedTuple):
    """What the database has made of a draft."""

    pk: int
    created_at: datetime


def message_of(draft: Draft, born: Born, using: str) -> Message:
    """Return the row as an object, as a query would."""
    values = {**BORN, **draft.columns()}
    values["id"], values["created_at"] = born
    values["due_at"] = values["retry_since"] = draft.terms.due_at or born.created_at
    return made.maker(using)(values)


# One row.


def insert(draft: Draft, using: str) -> Message:
    """Write one row by one INSERT in the caller's transaction, and return it.

    Where a project listens to Django's ``pre_save`` or ``post_save`` of `Message`, Django writes
    the row, so that a receiver may change it. Raise IntegrityError if its key is taken.
    """
    if made.listens(pre_save) or made.listens(post_save):
        return _save(draft, using)
    connection = connections[using]
    if connection.in_atomic_block:
        with transaction.mark_for_rollback_on_error(using=using), connection.cursor() as cursor:
            born = _insert(draft, connection, cursor)
    else:
        with connection.cursor() as cursor:
            born = _insert(draft, connection, cursor)
    return message_of(draft, born, using)


def _insert(draft: Draft, connection: Any, cursor: Any) -> Born:
    sql, parameters = statements_of(connection).insert(values_of(draft, connection))
    preparing.execute(connection, cursor, sql, parameters)
    if connection.features.can_return_columns_from_insert:
        return _read(cursor.fetchone(), connection)
    # MySQL gives back but the key; the host's clock must do for the object in the caller's hands.
    key = connection.ops.last_insert_id(cursor, Message._meta.db_table, "id")
    return Born(key, clock.host_now())


def _read(returned: tuple[Any, Any], connection: Any) -> Born:
    return Born(returned[0], created_at(returned[1], connection))


def _save(draft: Draft, using: str) -> Message:
    given = {name: value for name, value in draft.columns().items() if value is not None}
    message = Message(**given)
    if draft.terms.due_at is not None:
        message.retry_since = draft.terms.due_at
    message.save(using=using, force_insert=True)
    for name in ("due_at", "retry_since", "created_at"):
        # Before Django 6 an expression is not read back, and again the host's clock must do.
        if not isinstance(getattr(message, name), datetime):
            setattr(message, name, clock.host_now())
    return message


# Many rows.


def insert_many(drafts: Iterable[Draft], count: int, using: str, *, returning: bool) -> list[Born]:
    """Write ``count`` rows in the caller's atomic block: by COPY, or by INSERTs of many rows each.

    COPY takes one draft after the other, and the connection can do nothing else meanwhile.

    Return what the database has made of each, in their order, or nothing without ``returning``.
    As with ``bulk_create``, Django's ``pre_save`` and ``post_save`` are not sent.
    """
    connection = connections[using]
    with connection.cursor() as cursor:
        if copying.can_copy(connection, cursor):
            now, pks = copying.copy(drafts, count if returning else 0, connection, cursor)
            return [Born(pk, now) for pk in pks]
        if returning and not connection.features.can_return_rows_from_bulk_insert:
            return [_insert(draft, connection, cursor) for draft in drafts]
        return _insert_batches(drafts, connection, cursor, returning=returning)


def _insert_batches(
    drafts: Iterable[Draft], connection: Any, cursor: Any, *, returning: bool
) -> list[Born]:
    statements = statements_of(connection)
    rows = all_values_of(drafts, connection)
    given = statements.given(rows)
    # SQLite takes so many parameters in one statement, and no more.
    rows_max = connection.ops.bulk_batch_size(given, rows)
    born: list[Born] = []
    for batch in _batches(rows, rows_max):
        cursor.execute(*statements.insert_many(batch, given, returning=returning))
        if returning:
            born += [_read(returned, connection) for returned in cursor.fetchall()]
    return born


def _batches(rows: Sequence[Row], rows_max: int) -> Iterator[Sequence[Row]]:
    """Divide rows by their number and by the length of their content."""
    start = chars = 0
    for number, row in enumerate(rows):
        size = len(row[CONTENT])
        if number > start and (number - start >= rows_max or chars + size > _PACKET_CHARS):
            yield rows[start:number]
            start, chars = number, 0
        chars += size
    yield rows[start:]
