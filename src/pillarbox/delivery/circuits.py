"""A circuit for each mailer, shared by every host through its row: closed, open, half-open.

A fault opens it for 30 s, then 1 min, 2, 4, 8, and 10 at most. After that exactly one drain tries
the mailer with one message: that closes the circuit, or opens it for longer. It never touches the
network, nor a message.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Q, QuerySet

from pillarbox.delivery import database
from pillarbox.delivery.outcomes import Fail, MailerDown, Outcome, PartlySent, Sent, Stage
from pillarbox.models import Circuit, DatabaseNow, database_now

logger = logging.getLogger("pillarbox.delivery")

OPEN_FOR = timedelta(seconds=30)
OPEN_FOR_MAX = timedelta(minutes=10)
PROBE_LEASE = timedelta(seconds=15)
"""A drain that tries a mailer says so every 5 s; after this long without it counts as dead."""
LOOK_EVERY_S = 5.0
LOOK_OFTEN_S = 0.5
"""How often the rows are read: while every circuit is closed, and while one is not."""

_CLASS_OF = re.compile(r"(HTTP \d+|[A-Za-z_][\w.]*):")


def open_for(failures: int) -> timedelta:
    """Return how long a circuit stays open after so many faults in a row: 30 s, 1 min, 2, …, 10."""
    return min(OPEN_FOR * (1 << min(failures - 1, 10)), OPEN_FOR_MAX)


def reason_of(outcome: Outcome) -> str:
    """Return a fault as the row keeps it: a code or a class, and the stage; no server's words."""
    reply = outcome.reply
    if reply.code is not None and reply.code > 0:
        what = f"{reply.code} {reply.enhanced_code}".strip()
    else:
        found = _CLASS_OF.match(reply.text)
        what = found[1] if found else "no reply"
    return f"{what[:80]} ({outcome.stage.value})"


def trial_shows(outcome: Outcome) -> bool | None:
    """Return whether a trial's outcome shows a mailer that works; None where it shows nothing.

    A server that says nothing, or hangs up, does not work; one that refuses a message does.
    """
    if outcome.stage is Stage.RENDER:
        return None  # the message was at fault before anything was said
    if isinstance(outcome, Sent | PartlySent):
        return True
    spoke = outcome.reply.code is not None and outcome.reply.code > 0
    return not isinstance(outcome, MailerDown) and (spoke or isinstance(outcome, Fail))


@dataclass(frozen=True)
class _Seen:
    """One row, as this drain last read it; ``opens_at`` is by this host's monotonic clock."""

    state: str
    paused: bool
    may_be_tried_at: float


class Circuits:
    """What one drain knows of the circuits, and what it does about them."""

    def __init__(self, drain: uuid.UUID, using: str) -> None:
        self.drain = drain
        self.using = using
        self.probing: set[str] = set()
        """The mailers that this drain tries."""
        self._seen: dict[str, _Seen] = {}
        self._looked_at: float | None = None

    def look(self, *, now: bool = False) -> None:
        """Read the rows if it is time, or ``now``: one SELECT of a table of a few rows."""
        every_s = LOOK_OFTEN_S if self.unavailable() else LOOK_EVERY_S
        if not now and self._looked_at and time.monotonic() - self._looked_at < every_s:
            return
        rows = list(Circuit.objects.using(self.using).all())
        moment = database_now(self.using) if rows else None
        self._looked_at = time.monotonic()
        self._seen = {row.mailer: _seen(row, moment, self._looked_at) for row in rows if moment}

    def are_well(self) -> None:
        """Note what a survey has just found, which then need not be read: every mailer carries."""
        self._looked_at, self._seen = time.monotonic(), {}

    def unavailable(self) -> set[str]:
        """Return the mailers that carry nothing now, paused ones and those on trial included."""
        return {
            mailer
            for mailer, seen in self._seen.items()
            if seen.paused or seen.state != Circuit.State.CLOSED
        }

    def to_be_tried(self) -> set[str]:
        """Return the mailers whose time has come, unless this drain tries them already."""
        now = time.monotonic()
        return {
            mailer
            for mailer, seen in self._seen.items()
            if seen.state != Circuit.State.CLOSED
            and not seen.paused
            and seen.may_be_tried_at <= now
            and mailer not in self.probing
        }

    def next_trial_s(self, mailers: Collection[str]) -> float | None:
        """Return in how many seconds the first of ``mailers`` may be tried, None if none will."""
        now = time.monotonic()
        waits = [
            seen.may_be_tried_at - now
            for mailer, seen in self._seen.items()
            if mailer in mailers and seen.state != Circuit.State.CLOSED and not seen.paused
        ]
        return max(min(waits), 0.0) if waits else None

    def take_probe(self, mailer: str) -> bool:
        """Take it on to try the mailer; of all the drains on all hosts, one is told True."""
        due = Q(state=Circuit.State.OPEN, open_until__lte=DatabaseNow())
        due |= Q(state=Circuit.State.HALF_OPEN, probe_until__lte=DatabaseNow())
        rows = self._row(mailer).filter(due, paused=False)
        taken = self._change(
            rows,
            state=Circuit.State.HALF_OPEN,
            since=DatabaseNow(),
            probe=self.drain,
            probe_until=DatabaseNow(PROBE_LEASE),
        )
        if taken:
            self.probing.add(mailer)
        self.look(now=True)
        return taken

    def keep_probes(self) -> None:
        """Say that this drain lives and still tries what it tries."""
        for mailer in self.probing:
            self._change(self._mine(mailer), probe_until=DatabaseNow(PROBE_LEASE))

    def release_probe(self, mailer: str) -> None:
        """Give the trial up without a result: another drain may try at once."""
        self._end_probe(
            mailer, state=Circuit.State.OPEN, since=DatabaseNow(), open_until=DatabaseNow()
        )

    def close(self, mailer: str) -> None:
        """Close the circuit of a mailer that this drain has tried with success."""
        values = {"state": Circuit.State.CLOSED, "since": DatabaseNow(), "failures": 0}
        if self._end_probe(mailer, open_until=None, **values):
            logger.info("Mailer %s: circuit closes.", mailer, extra={"mailer": mailer})

    def open(self, mailer: str, outcome: Outcome) -> None:
        """Open the circuit of a mailer at fault, unless another drain has done so already.

        A trial's fault counts one more than the last; a fault found by several drains counts once.
        """
        reason = reason_of(outcome)
        row = self._read_or_create(mailer)
        is_own_trial = row.state == Circuit.State.HALF_OPEN and row.probe == self.drain
        if row.state == Circuit.State.CLOSED or is_own_trial:
            wait = open_for(row.failures + 1)
            # Not by ``since``: SQLite compares moments as text, and a full second has two forms.
            as_read = self._row(mailer).filter(
                state=row.state, probe=row.probe, failures=row.failures
            )
            opened = self._change(
                as_read,
                state=Circuit.State.OPEN,
                since=DatabaseNow(),
                open_until=DatabaseNow(wait),
                failures=row.failures + 1,
                reason=reason,
                probe=None,
                probe_until=None,
            )
            if opened:
                _log_opening(mailer, wait, reason)
        self.probing.discard(mailer)
        self.look(now=True)

    def _end_probe(self, mailer: str, **values: object) -> bool:
        ended = self._change(self._mine(mailer), probe=None, probe_until=None, **values)
        self.probing.discard(mailer)
        self.look(now=True)
        return ended

    def _read_or_create(self, mailer: str) -> Circuit:
        circuits = Circuit.objects.using(self.using)
        row = circuits.filter(mailer=mailer).first()
        if row is None:
            database.run(self.using, lambda: circuits.get_or_create(mailer=mailer))
            row = circuits.get(mailer=mailer)
        return row

    def _row(self, mailer: str) -> QuerySet[Circuit]:
        return Circuit.objects.using(self.using).filter(mailer=mailer)

    def _mine(self, mailer: str) -> QuerySet[Circuit]:
        return self._row(mailer).filter(state=Circuit.State.HALF_OPEN, probe=self.drain)

    def _change(self, rows: QuerySet[Circuit], **values: object) -> bool:
        return bool(database.run(self.using, lambda: rows.update(**values)))


def _seen(row: Circuit, now: datetime, at: float) -> _Seen:
    until = row.probe_until if row.state == Circuit.State.HALF_OPEN else row.open_until
    left_s = (until - now).total_seconds() if until is not None else 0.0
    return _Seen(row.state, row.paused, at + left_s)


def _log_opening(mailer: str, wait: timedelta, reason: str) -> None:
    logger.warning(
        "Mailer %s: circuit opens for %d s (%s).",
        mailer,
        wait.total_seconds(),
        reason,
        extra={"mailer": mailer, "open_s": wait.total_seconds(), "reason": reason},
    )


def pause(mailer: str, using: str) -> bool:
    """Let nothing more go by the mailer until `resume`; return whether it was not paused before."""
    circuits = Circuit.objects.using(using)
    database.run(using, lambda: circuits.get_or_create(mailer=mailer))
    return database.run(using, lambda: mark(mailer, using, paused=True))


def resume(mailer: str, using: str) -> bool:
    """Let mail go by it again; return whether it was paused before.

    A circuit that is open stays open: the pause was a person's word, the fault is the mailer's.
    """
    return database.run(using, lambda: mark(mailer, using, paused=False))


def mark(mailer: str, using: str, *, paused: bool) -> bool:
    """Write an operator's word into the row, in the caller's transaction; False if it was there."""
    rows = Circuit.objects.using(using).filter(mailer=mailer, paused=not paused)
    return bool(rows.update(paused=paused))
