"""Writes drafts as rows of `Message`: one INSERT, one for many rows, or COPY on PostgreSQL.

The SQL is made once for each database alias and kept. It takes names and quoting from Django, and
the moment of the INSERT from the database's clock.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from django.db import connections, transaction
from django.db.models.signals import post_save, pre_save

from pillarbox.models import Message, clock
from pillarbox.outbox.drafts import Draft

_FIELDS = {field.attname: field for field in Message._meta.concrete_fields}
_GIVEN = ("due_at", "retry_since", "created_at", *(n for n in Draft._fields if n != "due_at"))
_TIMES = _GIVEN[:3]
"""NULL as a parameter stands for the moment of the statement."""
_BORN = {
    name: field.get_default()
    for name, field in _FIELDS.items()
    if name not in _GIVEN and not field.primary_key
}
"""What is the same in every new row."""
_KEY = Message._meta.get_field("idempotency_key")
_CREATED_AT = Message._meta.get_field("created_at").get_col(Message._meta.db_table)
_PACKET_CHARS = 2**20
"""Far below what MariaDB takes in one statement (``max_allowed_packet``, 16 MiB)."""
_to_json = json.JSONEncoder().encode


class Born(NamedTuple):
    """What the database has made of a draft."""

    pk: int
    created_at: datetime


def message_of(draft: Draft, born: Born, using: str) -> Message:
    """Return the row as an object, as a query would."""
    values = {
        **_BORN,
        **draft._asdict(),
        "id": born.pk,
        "created_at": born.created_at,
        "due_at": draft.due_at or born.created_at,
        "retry_since": draft.due_at or born.created_at,
    }
    return Message.from_db(using, list(_FIELDS), [values[name] for name in _FIELDS])


# One row.


def insert(draft: Draft, using: str) -> Message:
    """Write one row by one INSERT in the caller's transaction, and return it.

    Where a project listens to Django's ``pre_save`` or ``post_save`` of `Message`, Django writes
    the row, so that a receiver may change it.
    """
    if pre_save.has_listeners(Message) or post_save.has_listeners(Message):
        return _save(draft, using)
    connection = connections[using]
    statement = _statement(connection)
    with transaction.mark_for_rollback_on_error(using=using), connection.cursor() as cursor:
        cursor.execute(statement.one, _values(draft, connection))
        (born,) = _read_born(cursor, connection)
    return message_of(draft, born, using)


def _save(draft: Draft, using: str) -> Message:
    times = {} if draft.due_at is None else {"retry_since": draft.due_at}
    given = {name: value for name, value in draft._asdict().items() if value is not None}
    message = Message(**given, **times)
    message.save(using=using, force_insert=True)
    for name in _TIMES:
        # Before Django 6 an expression is not read back; the host's clock must do, to look at.
        if not isinstance(getattr(message, name), datetime):
            setattr(message, name, draft.due_at if name != "created_at" else clock.host_now())
    return message


# Many rows.


def insert_many(drafts: Sequence[Draft], using: str, *, returning: bool) -> list[Born]:
    """Write many rows in the caller's atomic block: by COPY, or by INSERTs of many rows each.

    Return what the database has made of each, in their order, or nothing without ``returning``.
    No signal of Django's is sent, as with ``bulk_create``.
    """
    connection = connections[using]
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql" and hasattr(cursor, "copy"):  # psycopg 3
            return _copy(drafts, connection, cursor, returning=returning)
        if returning and not connection.features.can_return_rows_from_bulk_insert:
            return _insert_singly(drafts, connection, cursor)
        return _insert_batches(drafts, connection, cursor, returning=returning)


def _insert_singly(drafts: Sequence[Draft], connection: Any, cursor: Any) -> list[Born]:
    """Write row by row: MySQL gives no keys back for more than one."""
    statement, born = _statement(connection), []
    for draft in drafts:
        cursor.execute(statement.one, _values(draft, connection))
        born += _read_born(cursor, connection)
    return born


def _insert_batches(
    drafts: Sequence[Draft], connection: Any, cursor: Any, *, returning: bool
) -> list[Born]:
    statement, born = _statement(connection), []
    rows_max = connection.ops.bulk_batch_size([_FIELDS[name] for name in _GIVEN], drafts)
    for batch in _batches(drafts, rows_max):
        values = [value for draft in batch for value in _values(draft, connection)]
        cursor.execute(statement.many(len(batch), returning=returning), values)
        born += _read_born(cursor, connection) if returning else []
    return born


def _batches(drafts: Sequence[Draft], rows_max: int) -> Iterator[Sequence[Draft]]:
    start = chars = 0
    for number, draft in enumerate(drafts):
        chars += len(draft.content)
        if number > start and (number - start == rows_max or chars > _PACKET_CHARS):
            yield drafts[start:number]
            start, chars = number, len(draft.content)
    yield drafts[start:]


def _copy(drafts: Sequence[Draft], connection: Any, cursor: Any, *, returning: bool) -> list[Born]:
    """Write by COPY, which has no expressions: clock and sequence are asked before."""
    statement = _statement(connection)
    now, pks = _ask(len(drafts) if returning else 0, connection, cursor)
    rows = (_values(draft, connection, now) + statement.born for draft in drafts)
    if returning:
        rows = ((pk, *row) for pk, row in zip(pks, rows, strict=True))
    sql = statement.copy_with_keys if returning else statement.copy
    run: Any = partial(_write_rows, rows)
    for wrapper in reversed(connection.execute_wrappers):
        run = partial(wrapper, run)
    run(sql, None, False, {"connection": connection, "cursor": cursor})
    return [Born(pk, now) for pk in pks]


def _write_rows(rows: Iterator[Sequence[Any]], sql: str, _: Any, __: bool, context: Any) -> None:
    with context["connection"].wrap_database_errors, context["cursor"].copy(sql) as copy:
        for row in rows:
            copy.write_row(row)


def _ask(keys: int, connection: Any, cursor: Any) -> tuple[datetime, list[int]]:
    """Return the moment of the statement by the database's clock, and so many new keys."""
    table = connection.ops.quote_name(Message._meta.db_table)
    cursor.execute(
        "SELECT STATEMENT_TIMESTAMP(), ARRAY(SELECT nextval(pg_get_serial_sequence(%s, %s))"
        " FROM generate_series(1, %s))",
        (table, Message._meta.pk.column, keys),
    )
    now, pks = cursor.fetchone()
    return clock.frozen_at or now, pks


# The statements.


@dataclass(frozen=True, slots=True)
class _Statement:
    """The SQL of one database alias."""

    head: str
    row: str
    returning: str
    one: str
    copy: str
    copy_with_keys: str
    born: tuple[Any, ...]
    """The values of the other columns for COPY, which come after those of `_GIVEN`."""

    def many(self, rows: int, *, returning: bool) -> str:
        """Return the INSERT of so many rows."""
        return f"{self.head}{', '.join([self.row] * rows)}{self.returning if returning else ''}"


_statements: dict[tuple[str, str], _Statement] = {}


def _statement(connection: Any) -> _Statement:
    key = (connection.alias, connection.vendor)
    statement = _statements.get(key)
    if statement is None:
        statement = _statements[key] = _make_statement(connection)
    return statement


def _make_statement(connection: Any) -> _Statement:
    table = connection.ops.quote_name(Message._meta.db_table)
    key = _columns(connection, "id")
    now = clock.now_sql(connection.vendor)
    given = [f"COALESCE(%s, {now})" if name in _TIMES else "%s" for name in _GIVEN]
    head = f"INSERT INTO {table} ({_columns(connection, *_GIVEN, *_BORN)}) VALUES "
    row = f"({', '.join([*given, *map(_literal, _BORN.values())])})"
    returning = f" RETURNING {_columns(connection, 'id', 'created_at')}"
    can_return = connection.features.can_return_columns_from_insert
    born = {name: value for name, value in _BORN.items() if value is not None}
    copied = _columns(connection, *_GIVEN, *born)
    return _Statement(
        head=head,
        row=row,
        returning=returning,
        one=head + row + (returning if can_return else ""),
        copy=f"COPY {table} ({copied}) FROM STDIN",
        copy_with_keys=f"COPY {table} ({key}, {copied}) FROM STDIN",
        born=tuple(str(value) for value in born.values()),
    )


def _columns(connection: Any, *names: str) -> str:
    return ", ".join(connection.ops.quote_name(_FIELDS[name].column) for name in names)


def _literal(value: Any) -> str:
    """Write a default of the model as SQL; it has none but of these kinds."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, int):
        return str(int(value))
    text = str(value)
    assert text.isidentifier() or not text
    return f"'{text}'"


def _values(draft: Draft, connection: Any, now: datetime | None = None) -> tuple[Any, ...]:
    """Return the parameters for `_GIVEN`; without ``now`` the times are left to the statement."""
    moment = connection.ops.adapt_datetimefield_value
    now = now or clock.frozen_at
    due_at, created_at = moment(draft.due_at or now), moment(now)
    key = draft.idempotency_key
    return (
        due_at,
        due_at,
        created_at,
        draft.stream,
        int(draft.priority),
        moment(draft.expires_at),
        draft.in_doubt,
        draft.using,
        draft.message_id,
        moment(draft.date),
        draft.subject,
        draft.from_email,
        draft.first_recipient,
        draft.recipient_count,
        draft.content,
        None if key is None else _KEY.get_db_prep_save(key, connection),
        draft.fingerprint,
        _to_json(draft.tags) if draft.tags else "[]",
        _to_json(draft.metadata) if draft.metadata else "{}",
        draft.sensitive,
    )


def _read_born(cursor: Any, connection: Any) -> list[Born]:
    """Return what the INSERT gives back; MySQL gives but the key, and the host's clock must do."""
    if not connection.features.can_return_columns_from_insert:
        key = connection.ops.last_insert_id(cursor, Message._meta.db_table, "id")
        return [Born(key, clock.host_now())]
    return [Born(pk, _moment(read, connection)) for pk, read in cursor.fetchall()]


def _moment(read: Any, connection: Any) -> datetime:
    for convert in connection.ops.get_db_converters(_CREATED_AT):
        read = convert(read, _CREATED_AT, connection)
    moment: datetime = read
    return moment
