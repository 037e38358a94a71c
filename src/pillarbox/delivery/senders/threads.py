"""One thread a connection, one message a connection at a time; the threads never touch the ORM.

Each mailer has a lane of its own: parcels that wait, and threads that carry them. A mailer's first
connection opens alone, so that one that is down costs one time-out; the others follow it. The
connections are shared fairly: a mailer has its part at once, and at least one, even while a slow
one still holds more than its own. So are a mailer's among its streams: they take turns, and none
has them all.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from pillarbox.delivery import outcomes
from pillarbox.delivery.outcomes import Stage
from pillarbox.delivery.senders.base import Begin, Parcel, Result, Word
from pillarbox.delivery.senders.connections import Connection, pool, server_of
from pillarbox.delivery.senders.laned import Laned
from pillarbox.delivery.senders.lanes import Lane, Worker

FAREWELL_S = 2.0
"""How long the end of a drain waits for a server that is told QUIT."""


class ThreadsSender(Laned):
    """`Sender` for every backend: ``connections`` threads, started as parcels need them."""

    def __init__(
        self,
        connections: int,
        *,
        elsewhere: Callable[[], int] = lambda: 0,
        on_word: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(connections, elsewhere)
        self._on_word = on_word
        self._said: queue.SimpleQueue[Word | None] = queue.SimpleQueue()
        self._permits: dict[Parcel, _Permit] = {}
        self._talking: dict[Parcel, Connection] = {}
        self._is_closed = False

    def _staff(self, lane: Lane) -> None:
        """Start the threads that the lane's parcels need: one, until a connection has opened."""
        lane.news.notify(len(lane.waiting))
        while not self._is_closed and self._may_grow(lane):
            worker = Worker()
            worker.thread = threading.Thread(
                target=self._work, args=(lane, worker), name=f"pillarbox-{lane.mailer}", daemon=True
            )
            lane.workers.add(worker)
            worker.thread.start()

    def collect(self, timeout_s: float) -> list[Word]:
        """Wait for the first word and return it with whatever else has been said."""
        if self._said.empty():  # else a fault may be among it, to be judged first
            with self._lock:
                for lane in self._lanes.values():
                    lane.is_suspect = False
                    self._staff(lane)
        said: list[Word] = []
        try:
            word = self._said.get(timeout=timeout_s) if timeout_s else self._said.get_nowait()
            while True:
                said += [word] if word is not None else []
                word = self._said.get_nowait()
        except queue.Empty:
            for word in said:
                if isinstance(word, Result):
                    self._lane(word.parcel.mailer).settle(word.parcel)
            return said

    def interrupt(self) -> None:
        """End a wait in `collect` now, or the next one; from any thread."""
        self._said.put(None)

    def permit(self, parcel: Parcel, *, allowed: bool) -> None:
        """Let the thread that waits for this parcel write it, or go on without it."""
        with self._lock:
            waiting = self._permits.pop(parcel)
            if not allowed:
                self._lane(parcel.mailer).settle(parcel)
        waiting.answer(allowed=allowed)

    def drop_waiting(
        self, mailer: str | None = None, *, keep_connecting: bool = False
    ) -> list[Parcel]:
        """Take back what waits, of one mailer or of all."""
        with self._lock:
            lanes = [lane for lane in self._lanes.values() if mailer in (None, lane.mailer)]
            return [
                parcel for lane in lanes for parcel in lane.empty(keep_connecting=keep_connecting)
            ]

    def drop_stuck(self) -> list[Parcel]:
        """Take back what waits behind conversations that have gone on for 5 s, all of them."""
        with self._lock:
            stuck = [lane for lane in self._lanes.values() if lane.is_stuck]
            return [parcel for lane in stuck for parcel in lane.empty(keep_connecting=True)]

    def works(self, mailer: str) -> bool:
        """Whether a connection to the mailer is in conversation, or was a moment ago."""
        with self._lock:
            lane = self._lanes.get(mailer)
            return lane is not None and lane.works(self._talking.values())

    def talking(self) -> list[Parcel]:
        """Return the parcels in conversation."""
        with self._lock:
            return list(self._talking)

    def break_off(self) -> None:
        """Cut the sockets of the conversations under way."""
        with self._lock:
            talking = list(self._talking.values())
        for connection in talking:
            connection.break_off()

    def close(self) -> None:
        """End the threads: one that talks with its conversation, one that connects by itself."""
        with self._lock:
            self._is_closed = True
            unanswered, self._permits = list(self._permits.values()), {}
            for lane in self._lanes.values():
                lane.news.notify_all()
            settled = [
                worker.thread
                for lane in self._lanes.values()
                for worker in lane.workers
                # A silent server must not hold the stop: nothing of any message is in its hands.
                if not worker.is_connecting
            ]
            talks = bool(self._talking)
        for permit in unanswered:
            permit.answer(allowed=False)
        if not talks:
            for thread in settled:
                thread.join(FAREWELL_S)

    def _work(self, lane: Lane, worker: Worker) -> None:
        """Carry the lane's parcels over one connection after the other, until there is no more."""
        try:
            while self._awaits_parcel(lane, worker) and self._connect(lane, worker):
                with self._lock:
                    worker.is_connecting = False
                    part = self._part(lane.mailer)
                    parcel = lane.take(part) if not self._is_closed else None
                if parcel is not None and (result := self._carry(parcel, lane, worker)):
                    self._say(result)
        finally:
            with self._lock:
                lane.workers.discard(worker)
                connection = worker.connection
            if connection is not None:
                pool.give_back(connection)

    def _awaits_parcel(self, lane: Lane, worker: Worker) -> bool:
        """Wait for a parcel of the lane; return False where the thread is to end."""
        with self._lock:
            while not self._is_closed:
                part = self._part(lane.mailer)
                if len(lane.workers) > part:
                    lane.news.notify()  # the parcel that it was woken for is another's now
                    return False  # another mailer needs its part, or this one asked for fewer
                if lane.is_wanting(part):
                    worker.is_connecting = True
                    return True
                lane.news.wait()
            return False

    def _connect(self, lane: Lane, worker: Worker) -> bool:
        """See to an open connection; return False, and tell the drain, where there is none."""
        started_at, started = datetime.now(UTC), time.monotonic()
        try:
            if worker.connection is not None and not worker.connection.is_ready():
                worker.drop_connection()
            if worker.connection is not None:
                return True
            worker.connection = pool.take(lane.mailer)
        except Exception as error:  # noqa: BLE001 - every fault of a mailer has its outcome
            outcome, server = outcomes.classify(error, stage=Stage.OPEN), server_of(lane.mailer)
            with self._lock:
                lane.workers.discard(worker)
                parcel = lane.take()
                if parcel is not None:
                    lane.done(parcel)
                    parcel.server = server
                    lane.has_opened, lane.is_suspect = False, True
                    took_s = time.monotonic() - started
                    self._say(Result(parcel, outcome, started_at, took_s))
            return False
        with self._lock:
            lane.has_opened = True
            self._staff(lane)
        return True

    def _carry(self, parcel: Parcel, lane: Lane, worker: Worker) -> Result | None:
        try:
            return self._converse(parcel, worker)
        finally:
            with self._lock:
                lane.done(parcel)

    def _converse(self, parcel: Parcel, worker: Worker) -> Result | None:
        assert worker.connection is not None
        connection = worker.connection
        parcel.server = connection.server
        if not self._may_begin(parcel):
            return None
        started_at, started = datetime.now(UTC), time.monotonic()
        with self._lock:
            self._talking[parcel] = connection
        try:
            outcome = connection.send(parcel)
        except Exception as error:  # noqa: BLE001 - an unknown class fails its own message alone
            outcome = outcomes.classify(error, stage=Stage.SEND)
            connection.is_usable = False
        with self._lock:
            del self._talking[parcel]
        took_s = time.monotonic() - started
        return Result(parcel, outcome, started_at, took_s, connection.was_stale(outcome))

    def _say(self, word: Word) -> None:
        self._said.put(word)
        self._on_word()

    def _may_begin(self, parcel: Parcel) -> bool:
        permit = _Permit()
        with self._lock:
            if self._is_closed:
                return False
            self._permits[parcel] = permit
        self._say(Begin(parcel))
        return permit.wait()


class _Permit:
    """The drain's answer to one Begin."""

    def __init__(self) -> None:
        self._answered = threading.Event()
        self._allowed = False

    def answer(self, *, allowed: bool) -> None:
        self._allowed = allowed
        self._answered.set()

    def wait(self) -> bool:
        self._answered.wait()
        return self._allowed
