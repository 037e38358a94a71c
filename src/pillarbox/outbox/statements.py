"""The SQL that writes rows of `Message`, made once for each database alias and kept; no queries.

Names and quoting are Django's, so that routers and ``db_table`` hold. What most rows have alike
stands in the SQL itself: every parameter costs time, here and in the driver.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import compress
from operator import ne
from typing import Any

from django.db import models

from pillarbox.models import Message, clock
from pillarbox.outbox.drafts import OWN, TERMS, Draft, Terms

Row = tuple[Any, ...]
"""A draft as parameters, in the order of `_GIVEN`."""

_FIELDS = {field.attname: field for field in Message._meta.concrete_fields}
_TIMES = ("due_at", "retry_since", "created_at")
_GIVEN = (*_TIMES, *(name for name in TERMS if name != "due_at"), *OWN)
_PLACES = range(len(_GIVEN))
CONTENT = _GIVEN.index("content")
BORN = {
    name: field.get_default()
    for name, field in _FIELDS.items()
    if name not in _GIVEN and not field.primary_key
}
"""The columns that are the same in every new row."""
_key_field = _FIELDS["idempotency_key"]
_to_json = json.JSONEncoder().encode


def values_of(draft: Draft, connection: Any) -> Row:
    """Return a draft as parameters; None in a time leaves it to the statement."""
    return (*_values_of_terms(draft.terms, connection), *draft[1:])


def all_values_of(drafts: Iterable[Draft], connection: Any) -> list[Row]:
    """Return drafts as parameters; what many of them have alike is made once."""
    rows: list[Row] = []
    terms: Terms | None = None
    head: Row = ()
    for draft in drafts:
        if draft.terms is not terms:
            terms = draft.terms
            head = _values_of_terms(terms, connection)
        rows.append((*head, *draft[1:]))
    return rows


def _values_of_terms(terms: Terms, connection: Any) -> Row:
    moment = _as_text if connection.vendor == "postgresql" else _adapter(connection)
    frozen_at, expires_at, key = clock.frozen_at, terms.expires_at, terms.idempotency_key
    due_at = terms.due_at or frozen_at
    due = None if due_at is None else moment(due_at)
    return (
        due,
        due,
        None if frozen_at is None else moment(frozen_at),
        terms.stream,
        int(terms.priority),
        None if expires_at is None else moment(expires_at),
        terms.in_doubt,
        terms.using,
        moment(terms.date),
        None if key is None else _key_field.get_db_prep_save(key, connection),
        json_text(terms.tags) if terms.tags else "[]",
        json_text(terms.metadata) if terms.metadata else "{}",
        terms.sensitive,
    )


def _as_text(moment: datetime) -> str:
    """Return a moment as PostgreSQL reads it: psycopg needs thrice as long for a datetime."""
    return moment.isoformat()


def _adapter(connection: Any) -> Callable[[datetime], Any]:
    adapt: Callable[[datetime], Any] = connection.ops.adapt_datetimefield_value
    return adapt


def _plain(name: str) -> Any:
    """Return what a column holds in most rows; None in a time stands for the database's clock."""
    if name == "recipient_count":
        return 1
    field = _FIELDS[name]
    if isinstance(field, models.JSONField):
        return _to_json(field.get_default())
    return None if name in _TIMES else field.get_default()


_PLAIN = tuple(_plain(name) for name in _GIVEN)


class Statements:
    """The SQL for one database alias.

    A ``given`` is the places in `Row` that are parameters; the others are written out.
    """

    def __init__(self, connection: Any) -> None:
        table = connection.ops.quote_name(Message._meta.db_table)
        now = clock.now_sql(connection.vendor)
        self._head = f"INSERT INTO {table} ({_listed(connection, *_GIVEN, *BORN)}) VALUES "
        self._returning = f" RETURNING {column('id', connection)}, {_moment(connection)}"
        self._is_returning = connection.features.can_return_columns_from_insert
        self._open = [f"COALESCE(%s, {now})" if name in _TIMES else "%s" for name in _GIVEN]
        self._closed = [now if name in _TIMES else _literal(_plain(name)) for name in _GIVEN]
        self._born = [_literal(value) for value in BORN.values()]
        self._inserts: dict[tuple[int, ...], str] = {}

    def insert(self, row: Row) -> tuple[str, list[Any]]:
        """Return the INSERT of one row and its parameters; it returns key and ``created_at``."""
        differs = list(map(ne, row, _PLAIN))
        given = tuple(compress(_PLACES, differs))
        sql = self._inserts.get(given)
        if sql is None:
            returning = self._returning if self._is_returning else ""
            sql = self._inserts[given] = self._head + self._row(given) + returning
        return sql, list(compress(row, differs))

    def given(self, rows: Iterable[Row]) -> tuple[int, ...]:
        """Return the places at which any of the rows has something of its own."""
        differing: set[int] = set()
        for row in rows:
            differing.update(compress(_PLACES, map(ne, row, _PLAIN)))
        return tuple(sorted(differing))

    def insert_many(
        self, rows: Sequence[Row], given: tuple[int, ...], *, returning: bool
    ) -> tuple[str, list[Any]]:
        """Return the INSERT of many rows and its parameters."""
        listed = ", ".join([self._row(given)] * len(rows))
        sql = self._head + listed + (self._returning if returning else "")
        return sql, [row[place] for row in rows for place in given]

    def _row(self, given: tuple[int, ...]) -> str:
        values = [self._open[n] if n in given else self._closed[n] for n in _PLACES]
        return f"({', '.join([*values, *self._born])})"


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CREATED_AT = _FIELDS["created_at"].get_col(Message._meta.db_table)


def _moment(connection: Any) -> str:
    """Write the moment of creation for `created_at`: a number costs less to read than a date."""
    name = column("created_at", connection)
    if connection.vendor != "postgresql":
        return name
    return f"(EXTRACT(EPOCH FROM {name}) * 1000000)::bigint"


def created_at(returned: Any, connection: Any) -> datetime:
    """Return the moment that an INSERT has returned, in the time zone of the connection."""
    if connection.vendor == "postgresql":
        moment = _EPOCH + timedelta(microseconds=returned)
        zone = connection.timezone
        return moment if zone is UTC else moment.astimezone(zone)
    for convert in connection.ops.get_db_converters(_CREATED_AT):
        returned = convert(returned, _CREATED_AT, connection)
    read: datetime = returned
    return read


_kept: dict[tuple[str, str, str], Statements] = {}


def statements_of(connection: Any) -> Statements:
    """Return the SQL for the connection's alias."""
    key = (connection.alias, connection.vendor, Message._meta.db_table)
    statements = _kept.get(key)
    if statements is None:
        statements = _kept[key] = Statements(connection)
    return statements


def column(name: str, connection: Any) -> str:
    """Return a column's name as it stands in SQL."""
    return str(connection.ops.quote_name(_FIELDS[name].column))


def json_text(value: Sequence[str] | Mapping[str, Any]) -> str:
    """Return tags or metadata as every database takes them."""
    return _to_json(dict(value) if isinstance(value, Mapping) else list(value))


def _listed(connection: Any, *names: str) -> str:
    return ", ".join(column(name, connection) for name in names)


def _literal(value: Any) -> str:
    """Write a default of the model as SQL, for a statement with parameters."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, int):
        return str(int(value))
    text = str(value).replace("'", "''").replace("%", "%%")
    return f"'{text}'"
