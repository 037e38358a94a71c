"""The worker's loop: look, claim, begin, send, record, until nothing is due. It renders nothing."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from datetime import timedelta

from django.db import DatabaseError, InterfaceError, connections, router

from pillarbox.conf import get_settings
from pillarbox.delivery import claims, database, report, ways
from pillarbox.delivery.claims import LeaseLost
from pillarbox.delivery.leases import LINGER_S
from pillarbox.delivery.outcomes import InDoubt, Reply, Stage
from pillarbox.delivery.senders.base import Begin, Parcel, Result
from pillarbox.delivery.senders.threads import ThreadsSender
from pillarbox.delivery.ways import Way
from pillarbox.delivery.work import BATCH_MAX, Tally, Work
from pillarbox.engines import async_task, get_engine
from pillarbox.engines.base import KILL_MARGIN_S, SWEEP_INTERVAL, Engine
from pillarbox.models import Message, State, database_now

logger = logging.getLogger("pillarbox.delivery")

LOOK_EVERY_S = 0.005
POLL_EVERY_S = 0.05
"""How often a drain that never leaves looks into an empty queue."""
TEND_EVERY_S = 5.0
TROUBLE_PATIENCE_S = 10.0


def drain(
    *, engine: Engine | None = None, stop: threading.Event | None = None, forever: bool = False
) -> Tally:
    """Deliver what is due, in this thread and ``CONNECTIONS`` threads that write to the wire.

    Returns when nothing has been due for 100 ms, or at the engine's deadline; with ``forever``
    only once ``stop`` is set: then what is in conversation is finished and the rest given back.
    Returns at once where a drain that is already at work was told to stay. Raises nothing that a
    mailer or a message causes; raises DatabaseError when the database stays away.
    """
    return _Drain(engine or get_engine(), stop or threading.Event(), forever=forever).run()


class _Drain(Work):
    """One run of `drain`."""

    def __init__(self, engine: Engine, stop: threading.Event, *, forever: bool) -> None:
        super().__init__(engine, router.db_for_write(Message))
        self._stop = stop
        self._forever = forever
        self._started = time.monotonic()
        self._tended: float | None = None
        self._ways: list[Way] = []
        self._turn = 0
        self._claimed_at = self._started
        self._done_since_claim = 0
        self._has_woken = False
        self._has_left_behind = False
        self._trouble_since: float | None = None

    def run(self) -> Tally:
        connection = connections[self.using]
        was_open = connection.connection is not None
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()
        try:
            if self.lease.take():
                self._work()
        finally:
            if not was_open:
                database.discard(self.using)
        return self.tally

    def _work(self) -> None:
        self.sender = ThreadsSender(get_settings().connections)
        try:
            if not self._deliver():
                self._finish()
            self._ask_for_next_wake()
        finally:
            self.sender.close()
            self.lease.drop()
        if self._has_left_behind and not self._forever:
            _wake()  # now that the row is gone, recovery finds what it held

    def _deliver(self) -> bool:
        """Work until nothing is due; return False where it had to stop before that."""
        while not self._must_stop():
            try:
                self._step()
                self._trouble_since = None
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
        """Keep the results and try again; no database, no sends. Raise after 10 s of that."""
        now = time.monotonic()
        self._trouble_since = self._trouble_since or now
        if now - self._trouble_since > TROUBLE_PATIENCE_S:
            raise error
        logger.warning("The database does not answer (%s): sending waits.", type(error).__name__)
        database.discard(self.using)
        time.sleep(0.2)

    def _tend(self) -> None:
        """Renew the lease, recover from dead drains and look for strange streams, every 5 s."""
        self.lease.beat()
        if self._tended is not None and time.monotonic() - self._tended < TEND_EVERY_S:
            return
        self._tended = time.monotonic()
        self._look_for_ways()
        for message in claims.recover(self.using):
            report.found_in_doubt(message)

    def _look_for_ways(self) -> None:
        streams = claims.streams_in_queue(self.using)
        self._ways = ways.ways(streams, claims.hints_in_queue(self.using))

    def _claim(self) -> None:
        """Claim as much as the connections take, if anything is due."""
        self._offer_postponed()
        if not self.sender.room or not self._is_due():
            return
        limit = self._batch_size()
        started = time.monotonic()
        open_ways = self._open_ways()
        self._turn = (self._turn + 1) % len(open_ways)
        open_ways = open_ways[self._turn :] + open_ways[: self._turn]
        batch = claims.claim(self.lease.id, self.using, open_ways, limit)
        self.lease.renewed(started)
        self._claimed_at, self._done_since_claim = started, 0
        self._offer(batch)
        if len(batch.messages) == limit and not self._has_woken:
            self._has_woken = True
            _wake()

    def _is_due(self) -> bool:
        return claims.is_due(self.using, self._open_ways())

    def _open_ways(self) -> list[Way]:
        """Return the ways without the mailers that this drain found down."""
        now = time.monotonic()
        down = {mailer for mailer, until in self._down_until.items() if until > now}
        return ways.without(self._ways, down)

    def _offer_postponed(self) -> None:
        now = time.monotonic()
        self.sender.offer([parcel for again_at, parcel in self._postponed if again_at <= now])
        self._postponed = [entry for entry in self._postponed if entry[0] > now]

    def _batch_size(self) -> int:
        """Return about half a second's work: little where the server is slow, others may share."""
        elapsed = max(time.monotonic() - self._claimed_at, 0.01)
        half_second = round(self._done_since_claim / elapsed / 2)
        return max(self.sender.room, min(BATCH_MAX, half_second))

    def _settle(self, said: Sequence[Begin | Result]) -> None:
        self._done_since_claim += sum(isinstance(word, Result) for word in said)
        super()._settle(said)

    def _must_stop(self) -> bool:
        if self._stop.is_set():
            return True
        limit = self.engine.deadline().drain_s
        return limit is not None and time.monotonic() - self._started >= limit

    @property
    def _is_busy(self) -> bool:
        return bool(self.sender.in_hand or self._begins or self._results or self._postponed)

    def _may_leave(self) -> bool:
        """Wait while nothing is due; return True once nothing came and the row is gone."""
        if self._is_busy or self._is_due():
            return False
        if self._forever:
            self._stop.wait(POLL_EVERY_S)
            return False
        self.lease.mark_idle()
        until = time.monotonic() + LINGER_S
        while time.monotonic() < until:
            time.sleep(LOOK_EVERY_S)
            if self._is_due():
                return False
        # The last look begins after the linger; the row goes only if no wake came after it.
        looked_at = database_now(self.using)
        self._look_for_ways()
        return not self._is_due() and self.lease.try_leave(looked_at)

    def _finish(self) -> None:
        """Claim no more: give back what waits, and see what is in conversation to its end."""
        if not self.lease.is_lost:
            self.lease.close()
        self._hand_back(self.sender.drop_waiting())
        kill_s = self.engine.deadline().kill_s
        until = None if kill_s is None else self._started + max(kill_s - KILL_MARGIN_S, 0)
        while self.sender.in_hand or self._begins or self._results:
            if until is not None and time.monotonic() >= until:
                self._break_off()
                break
            self._end_conversations()
        if self._postponed:  # since the successor was woken
            self._hand_back([])

    def _hand_back(self, waiting: Sequence[Parcel]) -> None:
        """Queue again what was never begun, and only then wake a successor that looks for it."""
        waiting = [*waiting, *(parcel for _, parcel in self._postponed)]
        self._postponed = []
        if not self.lease.is_lost:
            self._has_left_behind = self._give_back(waiting) > 0
            if not self._forever:
                _wake()

    def _end_conversations(self) -> None:
        try:
            if not self.lease.is_lost:
                self.lease.beat()
            self._settle(self.sender.collect(POLL_EVERY_S))
        except LeaseLost as lost:
            logger.warning("%s Its late results count where nobody else has settled.", lost)
        except (DatabaseError, InterfaceError) as error:
            self._bear(error)

    def _break_off(self) -> None:
        """End what the engine is about to kill, and record what is known of it."""
        self.sender.break_off()
        until = time.monotonic() + 2
        while self.sender.in_hand and time.monotonic() < until:
            self._end_conversations()
        why = Reply(text="Broken off at the engine's deadline; how far it came is unknown.")
        silent = self.sender.talking()
        super()._settle([Result(p, InDoubt(stage=Stage.UNKNOWN, reply=why)) for p in silent])

    def _ask_for_next_wake(self) -> None:
        """Ask for one delayed wake if something becomes due before the next sweep."""
        if not self.engine.supports_delay or self._forever:
            return
        now = database_now(self.using)
        soon = Message.objects.using(self.using).filter(
            state=State.QUEUED,
            stream__in={way.stream for way in self._ways},
            due_at__gt=now,
            due_at__lte=now + SWEEP_INTERVAL,
        )
        next_due = soon.order_by("due_at").values_list("due_at", flat=True).first()
        if next_due is not None:
            _wake(next_due - now)


def _wake(delay: timedelta | None = None) -> None:
    """Wake one more drain, never coalesced."""
    try:
        async_task("pillarbox.jobs.deliver_due", delay=delay)
    except Exception as error:
        logger.warning("The engine took no wake: %s", type(error).__name__, exc_info=error)
