"""Finds messages among millions: every query has an index, or looks at the newest alone."""

from __future__ import annotations

from typing import Any

from django.db import connections
from django.db.models import Max, Q, QuerySet

from pillarbox.addresses import bare
from pillarbox.models import Message, Recipient

RECENT = 50_000
"""How many of the newest messages are looked through where no index serves the question."""
MOST_FOUND = 1_000

HELP = (
    "An address or its beginning, a Message-ID, the number of a message, or a part of the subject "
    f"(among the newest {RECENT:,}; sensitive ones are not found by it)."
)


def find(queryset: QuerySet[Message], term: str) -> QuerySet[Message]:
    """Return those of ``queryset`` that ``term`` finds, at most 1,000 by each way of looking.

    The ways are queries of their own: an OR over two tables would make PostgreSQL and MariaDB
    read all of both.
    """
    term = term.strip()
    if not term:
        return queryset
    using = queryset.db
    found = {*_by_name(term, using), *_by_address(term, using), *_by_subject(term, using)}
    return queryset.filter(pk__in=found)


def recent(using: str) -> Q:
    """Return the condition of being among the newest, a range of the primary key."""
    newest = Message.objects.using(using).aggregate(newest=Max("pk"))["newest"] or 0
    return Q(pk__gt=newest - RECENT)


def _by_name(term: str, using: str) -> list[int]:
    """Look for the Message-ID, with or without its brackets, or the row's number."""
    named = Q(message_id__in={term, f"<{term}>"})
    # 2**63 - 1 has 19 digits: what is longer is no number of a row, and an error on some databases.
    if term.isascii() and term.isdigit() and len(term) < 19:
        named |= Q(pk=int(term))
    return _newest(Message.objects.using(using).filter(named), "pk")


def _by_address(term: str, using: str) -> list[int]:
    mailbox = bare(term)
    if not mailbox or " " in mailbox:
        return []
    first = Message.objects.using(using).filter(**_prefix("first_recipient", mailbox, using))
    others = Recipient.objects.using(using).filter(**_prefix("address", mailbox, using))
    return _newest(first, "pk") + _newest(others, "message_id")


def _by_subject(term: str, using: str) -> list[int]:
    """Look through the newest; a sensitive subject must not be guessed by searching for it."""
    recently = Message.objects.using(using).filter(recent(using), sensitive=False)
    return _newest(recently.filter(subject__icontains=term), "pk")


def _newest(queryset: QuerySet[Any], column: str) -> list[int]:
    return list(queryset.order_by(f"-{column}").values_list(column, flat=True)[:MOST_FOUND])


def _prefix(field: str, text: str, using: str) -> dict[str, str]:
    """Return the lookup of a beginning that the index of ``field`` serves.

    PostgreSQL has an index for LIKE beside every indexed text. MySQL and MariaDB use one for LIKE,
    not for the LIKE BINARY of ``startswith``. SQLite uses none for LIKE, and compares bytewise.
    """
    vendor = connections[using].vendor
    if vendor == "postgresql":
        return {f"{field}__startswith": text}
    if vendor == "mysql":
        return {f"{field}__istartswith": text}
    return {f"{field}__gte": text, f"{field}__lt": f"{text}\U0010ffff"}
