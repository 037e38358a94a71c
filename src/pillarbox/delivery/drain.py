"""The worker's loop: look, claim, begin, send, record, until nothing is due. It renders nothing."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import Counter
from collections.abc import Collection, Sequence
from datetime import timedelta

from django.db import DatabaseError, InterfaceError, connections, router

from pillarbox.conf import get_settings
from pillarbox.delivery import claims, looks, recovery, report, wakes, ways
from pillarbox.delivery.claims import LeaseLost
from pillarbox.delivery.ending import POLL_EVERY_S, Stoppable
from pillarbox.delivery.leases import LINGER_S
from pillarbox.delivery.limits import Key
from pillarbox.delivery.listening import Listener
from pillarbox.delivery.looks import Survey
from pillarbox.delivery.outage import safely
from pillarbox.delivery.senders.base import BATCH_MAX, Result, Word
from pillarbox.delivery.senders.both import MixedSender
from pillarbox.delivery.turns import Turns
from pillarbox.delivery.ways import Way
from pillarbox.delivery.work import Tally
from pillarbox.engines import get_engine
from pillarbox.engines.base import SWEEP_INTERVAL, Engine
from pillarbox.models import Message, database_now

logger = logging.getLogger("pillarbox.delivery")

LOOK_EVERY_S = 0.005
TEND_EVERY_S = 5.0
MEND_LATER_S = 1.0
TOKENS_WITHIN_S = 60.0
"""A token that is farther away than this is left to the sweep: the slowest comes once a minute."""

_last_stream = "default"
"""Of which stream this process has claimed last; most projects have mail of one at a time."""


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


def _expected() -> Way | None:
    """Return the way that is likely to have mail, limited to what the connections carry at once.

    It is that of the last stream; None where that has several, or a rate.
    """
    found = ways.ways([_last_stream])
    if len(found) > 1 or found[0].rate is not None:
        return None
    return dataclasses.replace(found[0], limit=get_settings().connections)


class _Drain(Stoppable):
    """One run of `drain`."""

    def __init__(self, engine: Engine, stop: threading.Event, *, forever: bool) -> None:
        super().__init__(engine, router.db_for_write(Message), stop, forever=forever)
        self._turns = Turns()
        self._listener = Listener(self.using)
        self._claimed_at: dict[str, float] = {}
        self._done_since_claim: Counter[str] = Counter()
        self._has_woken = False
        self._is_first_claim = True
        self._first_way = _expected()

    def run(self) -> Tally:
        connection = connections[self.using]
        was_open = connection.connection is not None
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()
        try:
            if self._take_a_row(connection.connection is not None):
                self._work()
        finally:
            if not was_open:
                connection.close_if_unusable_or_obsolete()  # at once, unless CONN_MAX_AGE is set
        return self.tally

    def _take_a_row(self, may_be_stale: bool) -> bool:
        """Take a row; where this drain is to run for ever, wait for the database with it.

        A connection from before may have been cut since: then a new one is tried, once.
        """
        while True:
            try:
                if self._outage.is_on:
                    self.lease.drop()  # its insert may have been committed without an answer
                is_taken = self.lease.take(self._first_way)
            except (DatabaseError, InterfaceError) as error:
                self._may_have_strays = True
                if not self._forever:
                    safely(self.using, self.lease.drop)
                    if not may_be_stale:
                        raise
                    may_be_stale = False
                    continue
                self._outage.bear(error)
                if self._must_stop():
                    return False
            else:
                self._outage.end()
                return is_taken

    def _work(self) -> None:
        self.sender = MixedSender(get_settings().connections)
        if self.lease.taken is not None:
            self.ledger.clock.heard(self.lease.taken.at)
            self._look_for_ways(self.lease.taken.survey)
        if self._forever:
            self._listener.start(self.sender.interrupt)
        try:
            if self.lease.taken is not None and self._first_way and self.lease.taken.messages:
                self._offer_first(self._first_way, self.lease.taken.messages)
            is_over = self._deliver()
            if not is_over:
                self._finish()
            if self._survey.streams or not is_over:  # else it was just seen that no mail waits
                safely(self.using, self._ask_for_next_wake)
        finally:
            self._listener.close()
            self.sender.close()
            self._end_trials()
            safely(self.using, self.lease.drop)
        if self._has_left_behind and not self._forever:
            wakes.wake()  # now that the row is gone, recovery finds what it held

    def _offer_first(self, way: Way, messages: list[Message]) -> None:
        """Offer what was claimed with the row."""
        self._is_first_claim = False
        self._offer(claims.Batch(messages))
        self._turns.looked([way], [way] if len(messages) == way.limit else [])
        self._hear(self.sender.collect(0))  # so that an envelope is out while this one looks on

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
        if self._listener.heed():
            self._turns.look_anew()
        self._claim()
        self._settle(self.sender.collect(POLL_EVERY_S if self.sender.in_hand else 0))
        self._mend()

    def _may_write(self) -> bool:
        return self.lease.is_fresh

    def _tend(self) -> None:
        """Renew the lease and look for strange streams, every 5 s.

        The circuits say by themselves how often they are to be looked at.
        """
        self.lease.beat()
        if self._tended is None or time.monotonic() - self._tended >= TEND_EVERY_S:
            self._look_for_ways()
        self.circuits.look()

    def _mend(self) -> None:
        """Recover from dead drains, and from what this one left undone, at first and every 5 s.

        What it has in hand goes first, for a second: a mail is not to wait for these queries.
        """
        now = time.monotonic()
        if now < self._mend_at + (MEND_LATER_S if self.sender.in_hand else 0.0):
            return
        self._mend_at = now + TEND_EVERY_S
        self._tend_trials()
        self._expire_waiting()
        for message in recovery.recover(self.using):
            report.found_in_doubt(message)
        self._give_back(self.sender.drop_stuck())
        if self._may_have_strays:
            claims.give_back_strays(self.lease.id, self.using, self._known)
        self._may_have_strays = True

    def _look_for_ways(self, survey: Survey | None = None) -> None:
        self._tended = time.monotonic()
        super()._look_for_ways(survey)
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
        if self._is_first_claim:
            self._is_first_claim = False
            in_queue = [way for way in ready if way.stream in self._survey.streams]
            if len(in_queue) == 1:
                return in_queue  # a claim looks by itself: a wake's mail need not wait for this
        due = looks.due_ways(self.using, ready)
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
        """Note what was claimed for each mailer; wake one more drain at the first full batch.

        A way that gave less than was asked for is not looked at again at once.
        """
        for mailer in {message.mailer for message in batch.messages}:
            self._claimed_at[mailer] = started
            self._done_since_claim[mailer] = 0
        global _last_stream
        taken = Counter((message.stream, message.mailer) for message in batch.messages)
        _last_stream = next((stream for stream, _ in taken), _last_stream)
        full = [way for way in due if taken[way.stream, way.mailer] == way.limit]
        self._turns.looked(due, full)
        if self._has_woken or not full:
            return
        self._has_woken = True
        wakes.wake()

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

    def _settle(self, said: Sequence[Word]) -> None:
        for word in said:
            if isinstance(word, Result):
                self._done_since_claim[word.parcel.mailer] += 1
        super()._settle(said)

    @property
    def _is_busy(self) -> bool:
        return bool(self.sender.in_hand or self._postponed or self._is_unsettled)

    def _may_leave(self) -> bool:
        """Wait while nothing is due; return True once nothing came and the row is gone."""
        looked_at = time.monotonic()
        if self._is_busy or self._is_due():
            return False
        lacking = self._lacking_tokens()
        if self._forever:
            self._await_mail(looked_at, lacking)
            return False
        if lacking and self.lease.wait_for_tokens():
            self._wait_for_tokens(lacking)
            return False
        return self._linger(but={way.bucket for way in lacking})

    def _await_mail(self, looked_at: float, lacking: Sequence[Way]) -> None:
        """Look on after a notice as other drains do after their wake; else wait for the next."""
        if looked_at < self._listener.look_until:
            self._look_on()
            return
        pause_s = self._listener.pause_s
        self._listener.prove()
        waits = [self._turns.wait_s(lacking) or POLL_EVERY_S] if lacking else []
        if pause_s > POLL_EVERY_S:
            within = timedelta(seconds=pause_s)
            found = wakes.next_due(self.using, self._ways, database_now(self.using), within)
            waits += [found.total_seconds()] if found is not None else []
        self._listener.wait(min([pause_s, *waits]), self._stop)

    def _look_on(self) -> None:
        """Look until 100 ms after the notice, and then for streams that are no longer paused."""
        until = self._listener.look_until
        while time.monotonic() < until and not self._must_stop():
            self._listener.wait(LOOK_EVERY_S, self._stop)
            if self._is_due():
                return
        self._look_for_ways()

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
        if self._survey.streams and self._is_due(but):
            return False
        return self.lease.try_leave(looked_at)

    def _lacking_tokens(self) -> list[Way]:
        """Return the ways in which something waits for a token that is worth waiting for."""
        waiting = self._turns.waiting([*self._open_ways(), *self._trial_ways()])
        soon = [way for way in waiting if self._turns.wait_s([way]) <= TOKENS_WITHIN_S]
        return looks.due_ways(self.using, soon)

    def _wait_for_tokens(self, lacking: Sequence[Way]) -> None:
        """Sleep until the first token, and look at the other streams meanwhile."""
        self.lease.mark_idle()
        while not self._must_stop():
            self._tend()
            self._mend()
            left = self._turns.wait_s(lacking)
            time.sleep(min(left, POLL_EVERY_S))
            if left <= POLL_EVERY_S or self._is_due():
                return

    def _until_next_token(self) -> timedelta | None:
        """Return how long a successor would only wait, where the engine can be told; else None."""
        if not self.engine.supports_delay or self._is_due():
            return None
        left = self._turns.wait_s(self._lacking_tokens())
        return timedelta(seconds=left) if left > 1 else None

    def _ask_for_next_wake(self) -> None:
        """Ask for one delayed wake if something becomes due before the next sweep.

        That is a message, or the trial of a mailer for which mail waits.
        """
        if not self.engine.supports_delay or self._forever:
            return
        now = database_now(self.using)
        found = (wakes.next_due(self.using, self._ways, now), self._next_trial())
        waits = [wait for wait in found if wait is not None]
        if waits and min(waits) <= SWEEP_INTERVAL:
            wakes.wake_later(min(waits))

    def _next_trial(self) -> timedelta | None:
        blocked = self._blocked_ways()
        wait_s = self.circuits.next_trial_s({alias for way in blocked for alias in way.mailers})
        if wait_s is None or not self._has_due(blocked):
            return None
        return timedelta(seconds=wait_s)
