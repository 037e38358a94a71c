"""The worker's loop: look, claim, begin, send, record, until nothing is due. It renders nothing."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

from django.db import DatabaseError, InterfaceError, connections, router

from pillarbox.conf import get_settings
from pillarbox.delivery import claims, database, parcels, report, routes
from pillarbox.delivery.claims import LeaseLost
from pillarbox.delivery.leases import LINGER_S, Lease
from pillarbox.delivery.ledger import Entry, Ledger
from pillarbox.delivery.outcomes import Fail, InDoubt, MailerDown, Reply, Stage
from pillarbox.delivery.senders.base import Begin, Parcel, Result, Sender
from pillarbox.delivery.senders.inline import InlineSender
from pillarbox.delivery.senders.threads import ThreadsSender
from pillarbox.delivery.verdicts import MAILER_DOWN_FOR
from pillarbox.engines import async_task, get_engine
from pillarbox.engines.base import SWEEP_INTERVAL, Engine
from pillarbox.models import Message, State, database_now

logger = logging.getLogger("pillarbox.delivery")

LOOK_EVERY_S = 0.005
POLL_EVERY_S = 0.05
"""How often a drain that never leaves looks into an empty queue."""
TEND_EVERY_S = 5.0
KILL_MARGIN_S = 5.0
BATCH_MAX = 100
TROUBLE_PATIENCE_S = 10.0
LOCKED_AGAIN_S = 0.5
"""When to try again to begin a message whose row somebody's open transaction holds."""

Tally = Counter[str]
"""How many attempts ended how: the names of `Attempt.Result`, and ``expired``."""


def drain(
    *, engine: Engine | None = None, stop: threading.Event | None = None, forever: bool = False
) -> Tally:
    """Deliver what is due, in this thread and ``CONNECTIONS`` threads that write to the wire.

    Returns when nothing has been due for 100 ms, or at the engine's deadline; with ``forever``
    only once ``stop`` is set: then what is in conversation is finished and the rest given back.
    Returns at once where a drain that is already at work was told to stay. Raises nothing that a
    mailer or a message causes; raises DatabaseError when the database stays away.
    """
    engine = engine or get_engine()
    work = _Drain(engine, stop or threading.Event(), forever=forever)
    return work.run()


def deliver_inline(pks: Sequence[int] | None = None, *, using: str | None = None) -> Tally:
    """Deliver what is due now, or the due among ``pks``, in the caller's thread and connection.

    Neither threads nor a linger: for the engine ``immediate``, for tests, and for small tools.
    """
    using = using or router.db_for_write(Message)
    work = _Inline(get_engine(), using)
    return work.run(pks)


class _Work:
    """What both ways of draining share: from a claimed batch to recorded results."""

    sender: Sender

    def __init__(self, engine: Engine, using: str) -> None:
        self.engine = engine
        self.using = using
        self.lease = Lease(engine, using)
        self.ledger = Ledger(self.lease.id, using)
        self.tally: Tally = Counter()
        self._begins: list[Parcel] = []
        self._results: list[Result] = []
        self._postponed: list[tuple[float, Parcel]] = []
        self._down_until: dict[str, float] = {}

    def _offer(self, batch: claims.Batch) -> None:
        for message in batch.expired:
            self.tally["expired"] += 1
            report.expired(message)
        self.sender.offer([parcels.address(message) for message in batch.messages])

    def _settle(self, said: Sequence[Begin | Result]) -> None:
        """Record and begin in one commit, then answer the connections and tell the world.

        Raise what the database raises; nothing is lost by that, and the next call tries again.
        """
        self._begins += [word.parcel for word in said if isinstance(word, Begin)]
        self._results += [word for word in said if isinstance(word, Result)]
        if not self._begins and not self._results:
            return
        if not self.lease.is_fresh:
            self._refuse_begins()
        self._read_contents()
        entry = self.ledger.commit(self._begins, self._results)
        self._begins, self._results = [], []
        self._answer(entry)
        self._tell(entry)

    def _refuse_begins(self) -> None:
        """Without a fresh lease nothing is begun: nothing else fences a socket."""
        stale, self._begins = self._begins, []
        for parcel in stale:
            self.sender.permit(parcel, allowed=False)
        if not self.lease.is_lost:
            self._give_back(stale)

    def _read_contents(self) -> None:
        unread = [parcel for parcel in self._begins if parcel.email is None]
        for parcel, why in parcels.fill(unread, self.using).items():
            self._begins.remove(parcel)
            self._results.append(_unreadable(parcel, why))
            self.sender.permit(parcel, allowed=False)

    def _answer(self, entry: Entry) -> None:
        for parcel in entry.begun:
            self.sender.permit(parcel, allowed=True)
        for parcel in (*entry.lost, *entry.locked):
            self.sender.permit(parcel, allowed=False)
        again_at = time.monotonic() + LOCKED_AGAIN_S
        self._postponed += [(again_at, parcel) for parcel in entry.locked]

    def _tell(self, entry: Entry) -> None:
        down = set()
        for result, verdict in entry.settled:
            self.tally[report.result_name(result)] += 1
            report.settled(result, verdict, self.lease.id)
            if isinstance(result.outcome, MailerDown):
                down.add(result.parcel.mailer)
        for result in entry.refused:
            report.refused(result)
        for mailer in down:
            # The others would find the same: they wait as long, and cost nobody a time-out.
            self._down_until[mailer] = time.monotonic() + MAILER_DOWN_FOR.total_seconds()
            self._give_back(self.sender.drop_waiting(mailer), after=MAILER_DOWN_FOR)

    def _give_back(self, dropped: Sequence[Parcel], after: timedelta = timedelta(0)) -> None:
        messages = [parcel.message for parcel in dropped]
        claims.give_back(self.lease.id, self.using, messages, after=after)


def _unreadable(parcel: Parcel, why: Exception) -> Result:
    text = f"The content cannot be read: {type(why).__name__}"
    logger.error("Message %d: %s", parcel.message.pk, text, exc_info=why)
    return Result(parcel, Fail(stage=Stage.RENDER, reply=Reply(text=text)))


class _Drain(_Work):
    """One run of `drain`."""

    def __init__(self, engine: Engine, stop: threading.Event, *, forever: bool) -> None:
        super().__init__(engine, router.db_for_write(Message))
        self._stop = stop
        self._forever = forever
        self._started = time.monotonic()
        self._tended: float | None = None
        self._streams: list[str] = []
        self._turn = 0
        self._claimed_at = self._started
        self._done_since_claim = 0
        self._has_woken = False
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
        time.sleep(0.2)

    def _tend(self) -> None:
        """Renew the lease, recover from dead drains and look for strange streams, every 5 s."""
        self.lease.beat()
        if self._tended is not None and time.monotonic() - self._tended < TEND_EVERY_S:
            return
        self._tended = time.monotonic()
        self._streams = claims.streams_in_queue(self.using)
        for message in claims.recover(self.using):
            report.found_in_doubt(message)

    def _claim(self) -> None:
        """Claim as much as the connections take, if anything is due."""
        self._offer_postponed()
        if not self.sender.room or not self._is_due():
            return
        limit = self._batch_size()
        started = time.monotonic()
        streams = self._served()
        self._turn = (self._turn + 1) % len(streams)
        streams = streams[self._turn :] + streams[: self._turn]
        batch = claims.claim(self.lease.id, self.using, streams, limit)
        self.lease.renewed(started)
        self._claimed_at, self._done_since_claim = started, 0
        self._offer(batch)
        if len(batch.messages) == limit and not self._has_woken:
            self._has_woken = True
            _wake()

    def _is_due(self) -> bool:
        return claims.is_due(self.using, self._served())

    def _served(self) -> list[str]:
        """Return the streams that are not waiting for a mailer which this drain found down."""
        now = time.monotonic()
        down = {mailer for mailer, until in self._down_until.items() if until > now}
        if not down:
            return self._streams
        return [name for name in self._streams if routes.mailer_for(name) not in down]

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
        self._streams = claims.streams_in_queue(self.using)
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
            self._give_back(waiting)
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
            stream__in=self._streams,
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


class _Inline(_Work):
    """One run of `deliver_inline`."""

    def run(self, pks: Sequence[int] | None) -> Tally:
        self.lease.insert(slot=None)
        self.sender = InlineSender()
        try:
            while self._claim(pks):
                while self.sender.in_hand or self._results:
                    self._settle(self.sender.collect(0))
                    self.lease.beat()
        except LeaseLost as lost:
            logger.warning("%s Nothing more of what it claimed is sent.", lost)
        finally:
            self.sender.close()
            self.lease.drop()
        return self.tally

    def _claim(self, pks: Sequence[int] | None) -> bool:
        if pks is None:
            streams = claims.streams_in_queue(self.using)
            batch = claims.claim(self.lease.id, self.using, streams, BATCH_MAX)
        else:
            batch = claims.claim_these(self.lease.id, self.using, pks)
        self._offer(batch)
        return bool(batch.messages or batch.expired)
