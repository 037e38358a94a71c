"""Claims due messages for a drain, and gives them back.

Writes ``queued`` ⇄ ``sending`` (not begun) and ``expired``. It never touches the network.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

from django.db import connections
from django.db.models import QuerySet

from pillarbox import retention
from pillarbox.conf import Rate, get_settings
from pillarbox.delivery import claiming, database, limits, looks
from pillarbox.delivery.ways import Way
from pillarbox.models import (
    DatabaseNow,
    Drain,
    Message,
    Priority,
    State,
    database_now,
)

logger = logging.getLogger("pillarbox.delivery")

LEASE = timedelta(seconds=15)
EXPIRE_BATCH = 500
GIVE_BACK_PATIENCE_S = 1.0
CLAIMERS = 4
"""How many drains find rows of their own at once, where each first reads and then locks."""

_warned_about: set[str] = set()


class LeaseLost(Exception):
    """The drain's row is gone or its lease has run out: what it claimed belongs to others."""


@dataclass
class Batch:
    """What one claim took: messages to send, and those found past their ``expires_at``.

    ``waits`` has the buckets that lack a token for what is due, and for how many seconds.
    """

    messages: list[Message] = field(default_factory=list)
    expired: list[Message] = field(default_factory=list)
    waits: dict[limits.Key, float] = field(default_factory=dict)


def lock_these(using: str, pks: Iterable[int]) -> QuerySet[Message]:
    """Lock those of ``pks`` that are free, by the primary key alone; the caller judges the rest.

    Given more conditions MariaDB may go by another index, where it locks, to the transaction's
    end, every row that it passes: those of other drains.
    """
    these = Message.objects.using(using).filter(pk__in=sorted(pks))
    return database.skip_locked(these.order_by("pk"))


def streams_to_serve(found: looks.Survey) -> list[str]:
    """Return the streams to serve: those of the settings and those only found in the queue.

    Paused ones are left out. One that has left the settings is delivered as ``default`` is, and
    warned about once a process.
    """
    known = list(get_settings().streams)
    strays = [name for name in found.streams if name not in known]
    for name in set(strays) - _warned_about:
        _warned_about.add(name)
        logger.warning("The stream %r has left the settings: its mail goes as default does.", name)
    return [name for name in [*known, *strays] if name not in found.paused]


def _due(using: str) -> QuerySet[Message]:
    return Message.objects.using(using).filter(state=State.QUEUED, due_at__lte=DatabaseNow())


def is_due(using: str, ways: Sequence[Way], pks: Sequence[int]) -> bool:
    """Look whether any of ``pks`` is due by ``ways``."""
    these = _due(using).filter(pk__in=pks)
    return any(
        _marked(these.filter(stream=way.stream), way.hint, way.other_hints).exists() for way in ways
    )


def _marked(rows: QuerySet[Message], hint: str, others: Sequence[str]) -> QuerySet[Message]:
    if hint:
        return rows.filter(using=hint)
    return rows.exclude(using__in=others) if others else rows


def claim(
    drain: uuid.UUID, using: str, ways: Sequence[Way], limit: int, *, by_rate: bool = True
) -> Batch:
    """Claim up to ``limit`` due messages, divided between the ways that have any.

    Each way has its share, in the order given, and what others leave of theirs. Of a stream with a
    rate it takes what the bucket has tokens for, and no row is touched that has to wait, unless
    ``by_rate`` is False.

    The ``mailer`` of each is its way's, in memory: begin writes it. Runs in a transaction of its
    own, whose first statement renews the drain's lease; or, where the database can, in one
    statement a way that does both. Raise LeaseLost if that lease has run out: what was claimed in
    vain is then for recovery.
    """
    rates = {way.bucket: way.rate for way in ways if way.rate is not None} if by_rate else {}
    if not rates and database.prepares(using):
        return _ClaimAtOnce(drain, using, limit, rates).by(ways)

    def work() -> Batch:
        renew(drain, using)
        return _Claim(drain, using, limit, rates).by(ways)

    return database.run(using, work)


class _Claim:
    """One claim within its transaction."""

    def __init__(
        self, drain: uuid.UUID, using: str, limit: int, rates: Mapping[limits.Key, Rate]
    ) -> None:
        self._drain = drain
        self._using = using
        self._limit = limit
        self._tokens = limits.Tokens(using, rates)
        self._served: Counter[Way] = Counter()
        self._batch = Batch(waits=self._tokens.waits)

    def by(self, ways: Sequence[Way]) -> Batch:
        """Serve the ways in rounds, until none has more or the limit is reached."""
        hungry = list(ways)
        while hungry and self._room:
            hungry = [way for n, way in enumerate(hungry) if self._serve(way, len(hungry) - n)]
        self._tokens.put_back()
        return self._batch

    @property
    def _room(self) -> int:
        return self._limit - len(self._batch.messages)

    def _serve(self, way: Way, sharers: int) -> bool:
        """Take one way's share; return whether it may have more."""
        most = self._limit if way.limit is None else way.limit
        share = min(-(-self._room // sharers), most - self._served[way])
        taken = self._take(way, share)
        self._served[way] += taken
        has_more = self._served[way] < most and way.bucket not in self._tokens.waits
        return has_more and taken >= share

    def _take(self, way: Way, share: int) -> int:
        """Claim up to so many of a way, the urgent ones first; return how many."""
        taken = 0
        for priority in Priority.values:
            room = self._tokens.room(way.bucket, share - taken)
            if room <= 0:
                break
            taken += self._take_from(way, priority, room)
        return taken

    def _take_from(self, way: Way, priority: int, room: int) -> int:
        # One stream and one priority, ordered as the index is: on MariaDB an ORDER BY that no
        # index serves lets SKIP LOCKED return nothing to the second worker.
        due = _due(self._using).filter(stream=way.stream, priority=priority)
        due = _marked(due.order_by("due_at", "id"), way.hint, way.other_hints)
        rows = _lock_due(due, self._using, room)
        if not rows:
            return 0
        pay = partial(self._tokens.pay, way.bucket)
        return take(self._batch, rows, self._using, self._drain, way.mailer, pay)


class _ClaimAtOnce(_Claim):
    """One claim of ways without a rate, each in a statement that is its own transaction."""

    def _take(self, way: Way, share: int) -> int:
        if share <= 0:
            return 0
        found = claiming.claim(self._drain, self._using, way, share, LEASE)
        if found is None:
            raise LeaseLost(f"The lease of drain {self._drain} has run out.")
        messages, late = found
        self._batch.messages += messages
        if late:
            expire_late = partial(_expire_late, self._using, late)
            self._batch.expired += database.run(self._using, expire_late)
        return len(messages)


def _lock_due(due: QuerySet[Message], using: str, room: int) -> list[Message]:
    if connections[using].vendor != "mysql":
        return list(database.skip_locked(due)[:room])
    # Read first and lock by the primary key: by the claim's index MariaDB would lock the row after
    # the last one too, another drain's. Somebody else may be taking the first ones just now.
    pks = list(due.values_list("pk", flat=True)[: CLAIMERS * room])
    return [row for row in lock_these(using, pks)[:room] if row.state == State.QUEUED]


def take(
    batch: Batch,
    rows: list[Message],
    using: str,
    drain: uuid.UUID,
    mailer: str,
    pay: Callable[[Sequence[int]], int] = len,
) -> int:
    """Mark locked rows as claimed by ``drain``, or as expired, within the caller's transaction.

    ``pay`` says for how many of them, by their numbers of recipients, there are tokens: the others
    stay as they are. Returns how many are to be sent.
    """
    now = database_now(using)
    late = [row for row in rows if _is_late(row, now)]
    fresh = [row for row in rows if row not in late]
    fresh = fresh[: pay([row.recipient_count for row in fresh])]
    update_rows(using, fresh, state=State.SENDING, drain=drain, begun_at=None)
    batch.expired += _expire(using, late, now)
    for row in fresh:
        row.mailer = mailer
    batch.messages += fresh
    return len(fresh)


def _expire_late(using: str, pks: Sequence[int]) -> list[Message]:
    """Expire those of these that are still queued, late and free."""
    now = database_now(using)
    queued = [row for row in lock_these(using, pks) if row.state == State.QUEUED]
    return _expire(using, [row for row in queued if _is_late(row, now)], now)


def _is_late(message: Message, now: datetime) -> bool:
    return message.expires_at is not None and message.expires_at <= now


def _expire(using: str, rows: list[Message], now: datetime) -> list[Message]:
    """Mark rows as expired and return them.

    What waited for its one resend stays in doubt instead: it may have arrived in time.
    """
    update_rows(using, [row for row in rows if row.begun_at is not None], state=State.IN_DOUBT)
    expired = [row for row in rows if row.begun_at is None]
    update_rows(using, expired, state=State.EXPIRED, finished_at=now, drain=None)
    retention.erase_sensitive(using, expired)
    return expired


def update_rows(using: str, rows: list[Message], **values: object) -> None:
    if not rows:
        return
    Message.objects.using(using).filter(pk__in=sorted(row.pk for row in rows)).update(**values)
    for row in rows:
        for name, value in values.items():
            setattr(row, name, value)


def claim_these(drain: uuid.UUID, using: str, ways: Sequence[Way], pks: Sequence[int]) -> Batch:
    """Claim the due messages among ``pks``, for an engine that delivers its own commit alone."""

    def work() -> Batch:
        renew(drain, using)
        batch = Batch()
        for way in ways:
            due = _due(using).filter(pk__in=pks, stream=way.stream).order_by("id")
            rows = list(database.skip_locked(_marked(due, way.hint, way.other_hints))[: way.limit])
            take(batch, rows, using, drain, way.mailer)
        return batch

    return database.run(using, work)


def expire(using: str, ways: Sequence[Way]) -> list[Message]:
    """End the mail of ``ways`` that is past its ``expires_at``, 500 of each; return it.

    For mail that nobody claims since its mailers carry nothing. In transactions of its own.
    """
    expired: list[Message] = []
    for way in ways:
        old = _due(using).filter(stream=way.stream, expires_at__lte=DatabaseNow())
        old = _marked(old.order_by("id"), way.hint, way.other_hints)
        if old.exists():  # an empty look must stay a plain SELECT, for SQLite
            expired += database.run(using, partial(_expire_some, using, old))
    return expired


def _expire_some(using: str, old: QuerySet[Message]) -> list[Message]:
    rows = list(database.skip_locked(old)[:EXPIRE_BATCH])
    return _expire(using, rows, database_now(using))


def renew(drain: uuid.UUID, using: str) -> None:
    """Renew the lease within the caller's transaction. Raise LeaseLost if it has run out."""
    mine = Drain.objects.using(using).filter(pk=drain, lease_until__gt=DatabaseNow())
    if not mine.update(lease_until=DatabaseNow(LEASE), idle=False):
        raise LeaseLost(f"The lease of drain {drain} has run out.")


def give_back(drain: uuid.UUID, using: str, messages: Iterable[Message]) -> int:
    """Queue again what the drain claimed and has not begun, due as it was.

    Returns how many it had to leave, after a second's trying: rows that somebody's open
    transaction holds, which nobody may use to stall the drain. Recovery finds them.
    """
    pks = sorted(message.pk for message in messages)
    left = len(pks)
    # MariaDB locks rows for a moment that another drain's claim only passes by.
    until = time.monotonic() + GIVE_BACK_PATIENCE_S
    while left and (left := _let_go(drain, using, pks)[1]) and time.monotonic() < until:
        time.sleep(0.02)
    return left


def _let_go(drain: uuid.UUID, using: str, pks: Sequence[int]) -> tuple[int, int]:
    """Queue what is free of these and still the drain's; return how many, and how many are left."""

    def work() -> tuple[int, int]:
        rows = lock_these(using, pks).values_list("pk", "state", "drain", "begun_at")
        free = [pk for pk, *held in rows if held == [State.SENDING, drain, None]]
        these = Message.objects.using(using)
        done = these.filter(pk__in=free).update(state=State.QUEUED, drain=None)
        left = these.filter(pk__in=pks, state=State.SENDING, drain=drain, begun_at=None)
        return done, left.count()

    return database.run(using, work)


def give_back_strays(drain: uuid.UUID, using: str, known: Collection[int]) -> int:
    """Queue again what stands under the drain's name, not begun, and is not among ``known``.

    A claim leaves such rows where its commit took place and the answer was lost, and so does
    `give_back` where they were locked. Those that are locked now are left for the next look.
    Returns how many there were.
    """
    mine = Message.objects.using(using).filter(state=State.SENDING, drain=drain, begun_at=None)
    strays = sorted(set(mine.values_list("pk", flat=True)) - set(known))
    return _let_go(drain, using, strays)[0] if strays else 0
