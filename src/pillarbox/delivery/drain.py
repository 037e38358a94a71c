"""The worker's loop: look, claim, begin, send, record, until nothing is due. It renders nothing."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from django.db import DatabaseError, InterfaceError, connections, router

from pillarbox.conf import get_settings
from pillarbox.delivery import claims, database, report, ways
from pillarbox.delivery.claims import LeaseLost
from pillarbox.delivery.leases import LINGER_S
from pillarbox.delivery.limits import Key
from pillarbox.delivery.outage import FIRST_PAUSE_S, Outage, safely
from pillarbox.delivery.outcomes import InDoubt, MailerDown, Reply, Stage
from pillarbox.delivery.senders.base import BATCH_MAX, Begin, Parcel, Result
from pillarbox.delivery.senders.threads import ThreadsSender
from pillarbox.delivery.turns import Turns
from pillarbox.delivery.ways import Way
from pillarbox.delivery.work import Tally, Work
from pillarbox.engines import async_task, get_engine
from pillarbox.engines.base import KILL_MARGIN_S, SWEEP_INTERVAL, Engine
from pillarbox.models import Message, State, database_now

logger = logging.getLogger("pillarbox.delivery")

LOOK_EVERY_S = 0.005
POLL_EVERY_S = 0.05
"""How often a drain that never leaves looks into an empty queue."""
TEND_EVERY_S = 5.0
TOKENS_WITHIN_S = 60.0
"""A token that is farther away than this is left to the sweep: the slowest comes once a minute."""
LATER_TOLERANCE_S = 0.5
STOP_PATIENCE_S = 10.0
"""How long one that is to stop waits for a lost database, to record what it knows."""
DOT_TIMEOUT_S = 600.0
"""When it gives up a lost database where the engine never kills: RFC 5321 4.5.3.2.6."""


def drain(
    *, engine: Engine | None = None, stop: threading.Event | None = None, forever: bool = False
) -> Tally:
    """Deliver what is due, in this thread and ``CONNECTIONS`` threads that write to the wire.

    Returns when nothing has been due for 100 ms, or at the engine's deadline; with ``forever``
    only once ``stop`` is set: then what is in conversation is finished and the rest given back.
    Returns at once where a drain that is already at work was told to stay. Raises nothing that a
    mailer or a message causes. Without a database nothing is claimed or begun, and results wait:
    with ``forever`` for as long as it takes, else until 5 s before the engine kills. Raises
    DatabaseError where the drain cannot start for want of one, or where waiting mends nothing.
    """
    return _Drain(engine or get_engine(), stop or threading.Event(), forever=forever).run()


class _Drain(Work):
    """One run of `drain`."""

    sender: ThreadsSender

    def __init__(self, engine: Engine, stop: threading.Event, *, forever: bool) -> None:
        super().__init__(engine, router.db_for_write(Message))
        self._stop = stop
        self._forever = forever
        self._started = time.monotonic()
        self._tended: float | None = None
        self._turns = Turns()
        self._claimed_at: dict[str, float] = {}
        self._done_since_claim: Counter[str] = Counter()
        self._has_woken = False
        self._has_left_behind = False
        self._outage = Outage(self.using, self._rest)
        self._stopped_at: float | None = None

    def run(self) -> Tally:
        connection = connections[self.using]
        was_open = connection.connection is not None
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()
        try:
            if self._take_a_row():
                self._work()
        finally:
            if not was_open:
                database.discard(self.using)
        return self.tally

    def _take_a_row(self) -> bool:
        """Take a row; where this drain is to run for ever, wait for the database with it."""
        while True:
            try:
                if self._outage.is_on:
                    self.lease.drop()  # its insert may have been committed without an answer
                is_taken = self.lease.take()
            except (DatabaseError, InterfaceError) as error:
                if not self._forever:
                    safely(self.using, self.lease.drop)
                    raise
                self._outage.bear(error)
                if self._must_stop():
                    return False
            else:
                self._outage.end()
                return is_taken

    def _work(self) -> None:
        self.sender = ThreadsSender(get_settings().connections)
        try:
            if not self._deliver():
                self._finish()
            safely(self.using, self._ask_for_next_wake)
        finally:
            self.sender.close()
            self._end_trials()
            safely(self.using, self.lease.drop)
        if self._has_left_behind and not self._forever:
            _wake()  # now that the row is gone, recovery finds what it held

    def _deliver(self) -> bool:
        """Work until nothing is due; return False where it had to stop before that."""
        while not self._must_stop():
            try:
                self._step()
                self._outage.end()
                if self._may_leave():
                    return True
            except LeaseLost as lost:
                logger.warning("%s Nothing more of what it claimed is sent.", lost)
                self.lease.is_lost = True
                return False
            except (DatabaseError, InterfaceError) as error:
                self._bear(error)
        return False

    def _step(self) -> None:
        self._tend()
        self._claim()
        self._settle(self.sender.collect(POLL_EVERY_S if self.sender.in_hand else 0))

    def _bear(self, error: Exception) -> None:
        """Keep the results and try again later: no database, no sends."""
        self._tended = None  # whatever was committed without an answer is looked for
        self._outage.bear(error)

    def _rest(self, seconds: float) -> None:
        if self._stop.is_set():
            time.sleep(min(seconds, FIRST_PAUSE_S))
        else:
            self._stop.wait(seconds)

    def _may_write(self) -> bool:
        return self.lease.is_fresh

    def _tend(self) -> None:
        """Renew the lease, recover from dead drains and look for strange streams, every 5 s.

        The circuits say by themselves how often they are to be looked at.
        """
        self.lease.beat()
        self.circuits.look()
        if self._tended is not None and time.monotonic() - self._tended < TEND_EVERY_S:
            return
        self._tended = time.monotonic()
        self._look_for_ways()
        self._tend_trials()
        self._expire_waiting()
        for message in claims.recover(self.using):
            report.found_in_doubt(message)
        claims.give_back_strays(self.lease.id, self.using, self._known)

    def _look_for_ways(self) -> None:
        super()._look_for_ways()
        self.sender.share(ways.shared_mailers(self._ways))

    def _claim(self) -> None:
        """Claim as much as the connections take, of every stream that has something due."""
        self._offer_postponed()
        self._try_mailers()
        due = self._due_ways()
        if not due:
            return
        started = time.monotonic()
        rooms = [way.limit or 0 for way in due]
        limit = max(*rooms, min(BATCH_MAX, sum(rooms)))
        batch = self._take(self._turns.in_turn(due), limit)
        self.lease.renewed(started)
        self._offer(batch)
        self._count(batch, due, started)

    def _due_ways(self) -> list[Way]:
        """Look for what is due in the streams of which the connections would take more."""
        ready = self._turns.ready(self._with_room(), busy=bool(self.sender.in_hand))
        due = claims.due_ways(self.using, ready)
        self._turns.looked(ready, due)
        return due

    def _with_room(self) -> list[Way]:
        """Return the open ways by which more may be claimed, limited to that."""
        limited = []
        for way in self._open_ways():
            room = self._room(way)
            limit = room if way.limit is None else min(way.limit, room)
            if limit > 0:
                limited.append(dataclasses.replace(way, limit=limit))
        return limited

    def _take(self, found: Sequence[Way], limit: int) -> claims.Batch:
        batch = super()._take(found, limit)
        self._turns.lacked(batch.waits)
        return batch

    def _count(self, batch: claims.Batch, due: Sequence[Way], started: float) -> None:
        """Note what was claimed for each mailer; wake one more drain at the first full batch."""
        for mailer in {message.mailer for message in batch.messages}:
            self._claimed_at[mailer] = started
            self._done_since_claim[mailer] = 0
        taken = Counter((message.stream, message.mailer) for message in batch.messages)
        if self._has_woken or not any(taken[way.stream, way.mailer] == way.limit for way in due):
            return
        self._has_woken = True
        _wake()

    def _is_due(self, but: Collection[Key] = ()) -> bool:
        found = [*self._open_ways(), *self._trial_ways()]
        return self._has_due([way for way in found if way.bucket not in but])

    def _has_due(self, found: Sequence[Way]) -> bool:
        return super()._has_due(self._turns.ready(found))

    def _room(self, way: Way) -> int:
        """Return about half a second's work: little where the server is slow, others may share.

        None where enough of the stream is in hand.
        """
        room = self.sender.room(way.mailer, way.stream)
        elapsed = max(time.monotonic() - self._claimed_at.get(way.mailer, self._started), 0.01)
        half_second = round(self._done_since_claim[way.mailer] / elapsed / 2)
        return room and max(room, min(BATCH_MAX, half_second))

    def _settle(self, said: Sequence[Begin | Result]) -> None:
        for word in said:
            if isinstance(word, Result):
                self._done_since_claim[word.parcel.mailer] += 1
        super()._settle(said)

    def _must_stop(self) -> bool:
        if self._stop.is_set():
            return True
        limit = self.engine.deadline().drain_s
        return limit is not None and time.monotonic() - self._started >= limit

    @property
    def _is_busy(self) -> bool:
        return bool(self.sender.in_hand or self._postponed or self._is_unsettled)

    def _may_leave(self) -> bool:
        """Wait while nothing is due; return True once nothing came and the row is gone."""
        if self._is_busy or self._is_due():
            return False
        lacking = self._lacking_tokens()
        if self._forever:
            self._stop.wait(min(POLL_EVERY_S, self._turns.wait_s(lacking) or POLL_EVERY_S))
            return False
        if lacking and self.lease.wait_for_tokens():
            self._wait_for_tokens(lacking)
            return False
        return self._linger(but={way.bucket for way in lacking})

    def _linger(self, but: Collection[Key]) -> bool:
        """Look on for a while; ``but`` is what the drain that waits for tokens serves."""
        self.lease.mark_idle()
        until = time.monotonic() + LINGER_S
        while time.monotonic() < until:
            time.sleep(LOOK_EVERY_S)
            if self._is_due(but):
                return False
        # The last look begins after the linger; the row goes only if no wake came after it.
        looked_at = database_now(self.using)
        self._look_for_ways()
        return not self._is_due(but) and self.lease.try_leave(looked_at)

    def _lacking_tokens(self) -> list[Way]:
        """Return the ways in which something waits for a token that is worth waiting for."""
        waiting = self._turns.waiting([*self._open_ways(), *self._trial_ways()])
        soon = [way for way in waiting if self._turns.wait_s([way]) <= TOKENS_WITHIN_S]
        return claims.due_ways(self.using, soon)

    def _wait_for_tokens(self, lacking: Sequence[Way]) -> None:
        """Sleep until the first token, and look at the other streams meanwhile."""
        self.lease.mark_idle()
        while not self._must_stop():
            self._tend()
            left = self._turns.wait_s(lacking)
            time.sleep(min(left, POLL_EVERY_S))
            if left <= POLL_EVERY_S or self._is_due():
                return

    def _finish(self) -> None:
        """Claim no more: give back what waits, and see what is in conversation to its end."""
        if not self.lease.is_lost:
            safely(self.using, self.lease.close)
        # The engine's deadline leaves time to connect to a slow server; a person's stop does not.
        may_connect = not self._stop.is_set() and not self.lease.is_lost
        self._hand_back(self.sender.drop_waiting(keep_connecting=may_connect))
        while self.sender.in_hand or self._is_unsettled:
            if self._is_out_of_time():
                self._break_off()
                break
            self._end_conversations()
        if self._postponed:  # since the successor was woken
            self._hand_back([])
        self._close_books()

    def _is_out_of_time(self) -> bool:
        """Whether the engine is about to kill, or no database comes for the last results."""
        now = time.monotonic()
        kill_s = self.engine.deadline().kill_s
        if kill_s is None and self._outage.is_on and not self._forever:
            kill_s = DOT_TIMEOUT_S
        if kill_s is not None and now - self._started >= max(kill_s - KILL_MARGIN_S, 0):
            return True
        if not self._stop.is_set():
            return False
        self._stopped_at = self._stopped_at or now
        return min(now - self._stopped_at, self._outage.lasts_s) > STOP_PATIENCE_S

    def _close_books(self) -> None:
        """Leave nothing under this drain's name that nobody works on, and say what is unknown."""
        if not self.lease.is_lost:
            safely(self.using, self._give_back_strays)
        # A result of what was not begun says nothing that the queue does not.
        begun = [result for result in self._results if result.parcel.message.begun_at]
        if begun:
            report.unrecorded(begun)

    def _give_back_strays(self) -> None:
        if claims.give_back_strays(self.lease.id, self.using, ()):
            self._has_left_behind = True  # since the successor was woken

    def _hand_back(self, waiting: Sequence[Parcel]) -> None:
        """Queue again what was never begun, and only then wake a successor that looks for it."""
        waiting = [*waiting, *(parcel for _, parcel in self._postponed)]
        self._postponed = []
        if not self.lease.is_lost:
            self._has_left_behind = True
            safely(self.using, lambda: self._let_go(waiting))
            if not self._forever:
                _wake(self._until_next_token())

    def _until_next_token(self) -> timedelta | None:
        """Return how long a successor would only wait, where the engine can be told; else None."""
        if not self.engine.supports_delay or self._is_due():
            return None
        left = self._turns.wait_s(self._lacking_tokens())
        return timedelta(seconds=left) if left > 1 else None

    def _let_go(self, waiting: Sequence[Parcel]) -> None:
        self._has_left_behind = self._give_back(waiting) > 0

    def _end_conversations(self) -> None:
        self._hear(self.sender.collect(POLL_EVERY_S))
        try:
            if self._outage.is_on:
                database_now(self.using)
            if not self.lease.is_lost:
                self.lease.beat()
            self._settle(())
            self._outage.end()
        except LeaseLost as lost:
            logger.warning("%s Its late results count where nobody else has settled.", lost)
        except (DatabaseError, InterfaceError) as error:
            self._bear(error)

    def _break_off(self) -> None:
        """End what the engine is about to kill, and record what is known of it."""
        no_answer = MailerDown(reply=Reply(text="TimeoutError: no answer"), stage=Stage.OPEN)
        self._results += [Result(parcel, no_answer) for parcel in self.sender.drop_waiting()]
        self.sender.break_off()
        until = time.monotonic() + 2
        while (self.sender.in_hand or self._results) and time.monotonic() < until:
            if not self._outage.is_on:
                self._end_conversations()
            elif self.sender.in_hand:  # no time is left to wait for the database
                self._hear(self.sender.collect(POLL_EVERY_S))
            else:
                break
        why = Reply(text="Broken off at the engine's deadline; how far it came is unknown.")
        silent = self.sender.talking()
        doubtful = [Result(p, InDoubt(stage=Stage.UNKNOWN, reply=why)) for p in silent]
        safely(self.using, lambda: super(_Drain, self)._settle(doubtful))

    def _ask_for_next_wake(self) -> None:
        """Ask for one delayed wake if something becomes due before the next sweep.

        That is a message, or the trial of a mailer for which mail waits.
        """
        if not self.engine.supports_delay or self._forever:
            return
        now = database_now(self.using)
        waits = [wait for wait in (self._next_due(now), self._next_trial()) if wait is not None]
        if waits and min(waits) <= SWEEP_INTERVAL:
            _wake_later(min(waits))

    def _next_trial(self) -> timedelta | None:
        blocked = self._blocked_ways()
        wait_s = self.circuits.next_trial_s({alias for way in blocked for alias in way.mailers})
        if wait_s is None or not self._has_due(blocked):
            return None
        return timedelta(seconds=wait_s)

    def _next_due(self, now: datetime) -> timedelta | None:
        soon = Message.objects.using(self.using).filter(
            state=State.QUEUED,
            stream__in={way.stream for way in self._ways},
            due_at__gt=now,
            due_at__lte=now + SWEEP_INTERVAL,
        )
        next_due = soon.order_by("due_at").values_list("due_at", flat=True).first()
        return next_due - now if next_due is not None else None


_later_at: float | None = None
"""When the delayed wake comes that this process has asked for last (monotonic)."""


def _wake_later(delay: timedelta) -> None:
    """Ask for a delayed wake, unless one is to come before that: its drain asks anew.

    Without this bound each drain of an outage would leave a wake of its own.
    """
    global _later_at
    now = time.monotonic()
    at = now + delay.total_seconds()
    if _later_at is not None and now < _later_at <= at + LATER_TOLERANCE_S:
        return
    _later_at = at
    _wake(delay)


def _wake(delay: timedelta | None = None) -> None:
    """Wake one more drain, never coalesced."""
    try:
        async_task("pillarbox.jobs.deliver_due", delay=delay)
    except Exception as error:
        logger.warning("The engine took no wake: %s", type(error).__name__, exc_info=error)
