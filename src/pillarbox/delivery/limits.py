"""Rate limits: token buckets in the database, one for each stream and mailer; no message is read.

A token is one recipient. A bucket fills at the stream's rate and holds one second's worth, so
there is no burst of a minute's. A message goes when its tokens are there, and one that is larger
than the bucket when the bucket is full; what it lacked is a debt that the next one waits for:

======== ======= ============================== ==========================================
rate     bucket  from a full bucket             after that
======== ======= ============================== ==========================================
14/s     14      14 messages of one at once     one each 1/14 s
14/s     14      one of 100: 14 - 100 = -86     one of one after (86 + 1) / 14 = 6.2 s,
                                                one of 100 after (86 + 14) / 14 = 7.1 s
500/min  8.33    8 of one: 0.33 left            one each 0.12 s, the first after 0.08 s
10/h     1/360   one of one: -359/360           one each 360 s: the bucket is full again
10/h     1/360   one of 5: 1/360 - 5            the next after 1,800 s
======== ======= ============================== ==========================================

So over any span of ``t`` seconds at most ``rate x t``, one second's worth, and the part of one
message that exceeds the bucket go out. Tokens are taken at the claim and never returned: what is
claimed and not sent (a crash, a mailer that is down) makes the stream slower, never faster.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from itertools import takewhile
from operator import or_
from typing import Any

from django.db import connections
from django.db.models import Q, QuerySet

from pillarbox.conf import Rate
from pillarbox.models import Bucket, DatabaseNow

Key = tuple[str, str]
"""A stream and a mailer."""

RETRY_S = 0.02
"""When to look again at a bucket that another claim has in its hands; also the shortest wait for
a token, so that at 1,000/s twenty messages go by a claim and not one."""

_TOLERANCE = 1e-6
"""Tokens: what floating point and a clock in microseconds may lack of a whole one."""


def capacity(rate: Rate) -> float:
    """Return how many tokens a bucket holds: one second's worth, a fraction where that is less."""
    return rate.per_s


def refill(tokens: float, elapsed_s: float, rate: Rate) -> float:
    """Return the tokens after ``elapsed_s``; a clock that was set back takes none away."""
    return min(capacity(rate), tokens + max(0.0, elapsed_s) * rate.per_s)


def needed(recipients: int, rate: Rate) -> float:
    """Return the tokens at which a message goes: its own, or a full bucket for a larger one."""
    return min(recipients, capacity(rate))


def wait_s(tokens: float, recipients: int, rate: Rate) -> float:
    """Return how long until a message of so many recipients may go, in seconds; 0.0 is now."""
    lacking = needed(recipients, rate) - tokens
    return lacking / rate.per_s if lacking > _TOLERANCE else 0.0


@dataclass
class Purse:
    """One bucket in the hands of one claim; nobody else takes from it until that commits."""

    rate: Rate
    tokens: float
    at: datetime
    pk: int = 0
    paid: int = 0

    @property
    def room(self) -> int:
        """How many messages can go at most, since each has a recipient."""
        if wait_s(self.tokens, 1, self.rate):
            return 0
        return max(1, int(self.tokens + _TOLERANCE))

    def pay(self, recipients: int) -> bool:
        """Take a message's tokens and return True, or leave them and return False."""
        if wait_s(self.tokens, recipients, self.rate):
            return False
        self.tokens -= recipients
        self.paid += recipients
        return True

    def wait_s(self, recipients: int = 1) -> float:
        """Return how long until a message of so many recipients may go, in seconds."""
        return wait_s(self.tokens, recipients, self.rate)


class Tokens:
    """What one claim takes from the buckets, in its transaction, and for whom it has to wait."""

    def __init__(self, using: str, rates: Mapping[Key, Rate]) -> None:
        self._using = using
        self._purses = take(using, rates)
        # What is in the hands of another claim is free again as soon as that commits.
        self.waits: dict[Key, float] = {key: RETRY_S for key in rates if key not in self._purses}
        """The buckets that lack a token for what is due, and for how many seconds."""
        for key, purse in self._purses.items():
            if not purse.room:
                self.waits[key] = purse.wait_s()

    def room(self, key: Key, most: int) -> int:
        """Return how many messages could go; ``most`` where there is no rate."""
        if key in self.waits:
            return 0
        return min(most, self._purses[key].room) if key in self._purses else most

    def pay(self, key: Key, sizes: Sequence[int]) -> int:
        """Pay for messages with so many recipients, in this order; return how many may go.

        The first that has to wait stops the rest, which would take its tokens for ever.
        """
        if key not in self._purses:
            return len(sizes)
        purse = self._purses[key]
        paid = list(takewhile(purse.pay, sizes))
        if len(paid) < len(sizes):
            self.waits[key] = purse.wait_s(sizes[len(paid)])
        elif paid and not purse.room:
            self.waits[key] = purse.wait_s()
        return len(paid)

    def put_back(self) -> None:
        """Write what is left."""
        put_back(self._using, self._purses.values())


def take(using: str, wanted: Mapping[Key, Rate]) -> dict[Key, Purse]:
    """Lock the buckets and return what is in them now; a new bucket is full.

    A bucket that another claim has in its hands is left out: its stream is being served at this
    moment. Runs in the caller's transaction; on SQLite that has begun with a write, which keeps
    every other writer out. `put_back` ends it.
    """
    if not wanted:
        return {}
    found = _lock(using, wanted)
    if len(found) < len(wanted) and _make_missing(using, wanted):
        found = _lock(using, wanted)
    return _purses(found, wanted)


def put_back(using: str, purses: Iterable[Purse]) -> None:
    """Write what is left, in the same transaction; a bucket nobody paid from is not touched."""
    for purse in purses:
        if purse.paid:
            mine = Bucket.objects.using(using).filter(pk=purse.pk)
            mine.update(tokens=purse.tokens, filled_at=purse.at)


def look(using: str, wanted: Mapping[Key, Rate]) -> dict[Key, Purse]:
    """Return what is in the buckets now, in one plain SELECT; one that does not exist is full."""
    if not wanted:
        return {}
    return _purses(_rows(using, wanted), wanted)


def _rows(using: str, wanted: Iterable[Key]) -> QuerySet[Any]:
    # With each row the database's clock: the only one that all workers share.
    rows = Bucket.objects.using(using).filter(_these(wanted)).order_by("pk")
    return rows.annotate(now=DatabaseNow())


def _lock(using: str, wanted: Iterable[Key]) -> list[Any]:
    rows = _rows(using, wanted)
    features = connections[using].features
    if features.has_select_for_update:
        rows = rows.select_for_update(skip_locked=features.has_select_for_update_skip_locked)
    return list(rows)


def _these(wanted: Iterable[Key]) -> Q:
    return reduce(or_, (Q(stream=stream, mailer=mailer) for stream, mailer in wanted))


def _purses(rows: Iterable[Any], wanted: Mapping[Key, Rate]) -> dict[Key, Purse]:
    purses = {}
    for row in rows:
        key = (row.stream, row.mailer)
        elapsed_s = (row.now - row.filled_at).total_seconds()
        purses[key] = Purse(
            rate=wanted[key],
            tokens=refill(row.tokens, elapsed_s, wanted[key]),
            # A claim that committed between our statement's start and its lock came later.
            at=max(row.now, row.filled_at),
            pk=row.pk,
        )
    return purses


def _make_missing(using: str, wanted: Mapping[Key, Rate]) -> bool:
    """Make the rows that do not exist and return True; those that another claim has locked do."""
    buckets = Bucket.objects.using(using)
    there = set(buckets.filter(_these(wanted)).values_list("stream", "mailer"))
    missing = [
        Bucket(stream=stream, mailer=mailer, tokens=capacity(rate), filled_at=DatabaseNow())
        for (stream, mailer), rate in wanted.items()
        if (stream, mailer) not in there
    ]
    buckets.bulk_create(missing, ignore_conflicts=True)  # another worker may have been faster
    return bool(missing)
