"""PostgreSQL's COPY: the fastest way to write rows of `Message`; needs psycopg 3.

Source: PostgreSQL's documentation, COPY, "Text Format".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import partial
from typing import Any

from pillarbox.models import Message, clock
from pillarbox.outbox.drafts import Draft, Terms
from pillarbox.outbox.statements import BORN, column, json_text

BLOCK_CHARS = 2**15
"""Enough to save calls, and little enough for PostgreSQL to begin while the next is made."""
_TEXTS = ("message_id", "subject", "from_email", "first_recipient")
_OWN = (*_TEXTS, "content", "recipient_count")
_ALIKE = (
    *("stream", "in_doubt", "using", "fingerprint", "tags", "metadata"),
    *("due_at", "retry_since", "created_at", "expires_at", "date", "priority", "sensitive"),
)
"""What many messages have alike: `Terms`, and what all have that have no idempotency key."""
_BORN = {name: str(value) for name, value in BORN.items() if value is not None}
_END = "".join(f"\t{value}" for value in _BORN.values()) + "\n"


def can_copy(connection: Any, cursor: Any) -> bool:
    """Whether the database has COPY and its driver hands it out."""
    return connection.vendor == "postgresql" and hasattr(cursor, "copy")


def copy(drafts: Iterable[Draft], keys: int, connection: Any, cursor: Any) -> tuple[Any, list[int]]:
    """Write drafts without idempotency keys; return the moment and the ``keys`` primary keys.

    With ``keys``, as many as there are drafts, they are taken from the sequence before and are in
    the drafts' order. COPY has no expressions: the clock is asked before, too. While one draft
    after the other is taken, the connection can do nothing else.
    """
    now, pks = _ask(keys, connection, cursor)
    names = (*_OWN, *_ALIKE, *_BORN)
    listed = ", ".join(column(name, connection) for name in (("id", *names) if keys else names))
    table = connection.ops.quote_name(Message._meta.db_table)
    lines = _lines(drafts, now)
    if keys:
        lines = (f"{pk}\t{line}" for pk, line in zip(pks, lines, strict=True))
    run: Any = partial(_write, lines)
    for wrapper in reversed(connection.execute_wrappers):
        run = partial(wrapper, run)
    sql = f"COPY {table} ({listed}) FROM STDIN"
    run(sql, None, False, {"connection": connection, "cursor": cursor})
    return now, pks


def _ask(keys: int, connection: Any, cursor: Any) -> tuple[datetime, list[int]]:
    """Return the moment by the database's clock, and so many new keys."""
    cursor.execute(
        "SELECT STATEMENT_TIMESTAMP(), ARRAY(SELECT nextval(pg_get_serial_sequence(%s, %s))"
        " FROM generate_series(1, %s))",
        (connection.ops.quote_name(Message._meta.db_table), Message._meta.pk.column, keys),
    )
    now, pks = cursor.fetchone()
    return clock.frozen_at or now, pks


def _write(lines: Iterable[str], sql: str, _: Any, __: bool, context: Any) -> None:
    """Run COPY as Django runs a statement, behind the connection's ``execute_wrapper``."""
    with context["connection"].wrap_database_errors, context["cursor"].copy(sql) as copying:
        for block in _blocks(lines):
            copying.write(block)


def _blocks(lines: Iterable[str]) -> Iterator[str]:
    """Put lines together, because the driver sends each piece that it is given by itself."""
    block: list[str] = []
    size = 0
    for line in lines:
        block.append(line)
        size += len(line)
        if size >= BLOCK_CHARS:
            yield "".join(block)
            block, size = [], 0
    yield "".join(block)


def _lines(drafts: Iterable[Draft], now: datetime) -> Iterator[str]:
    """Return each draft as a line of values in the order of the columns."""
    terms: Terms | None = None
    end = ""
    for draft in drafts:
        if draft.terms is not terms:
            terms = draft.terms
            end = _line_end(terms, now)
        _, message_id, subject, from_email, first, count, content, _ = draft
        texts = _escaped((message_id, subject, from_email, first))
        # JSON in ASCII has nothing else that would have to be escaped.
        content = content.replace("\\", "\\\\")
        yield f"{texts}\t{content}\t{count}{end}"


def _line_end(terms: Terms, now: datetime) -> str:
    """Return what the lines of all drafts with these terms end with."""
    tags, metadata = json_text(terms.tags), json_text(terms.metadata)
    texts = _escaped((terms.stream, terms.in_doubt, terms.using, "", tags, metadata))
    moment = now.isoformat()
    due_at = terms.due_at.isoformat() if terms.due_at else moment
    expires_at = terms.expires_at.isoformat() if terms.expires_at else "\\N"
    return (
        f"\t{texts}\t{due_at}\t{due_at}\t{moment}\t{expires_at}\t{terms.date.isoformat()}"
        f"\t{int(terms.priority)}\t{terms.sensitive}{_END}"
    )


def _escaped(texts: Iterable[str]) -> str:
    """Return texts with tabs between them; no text has a NUL, which PostgreSQL could not store."""
    text = "\0".join(texts).replace("\\", "\\\\")
    return text.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r").replace("\0", "\t")
