"""A mailer's parcels and the threads that carry them; guarded by its sender's lock, no sockets."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable

from pillarbox.delivery.senders.base import Parcel
from pillarbox.delivery.senders.connections import Connection
from pillarbox.delivery.senders.shares import Shares

WORKED_LATELY_S = 5.0
STUCK_AFTER_S = 5.0
"""After how long without the end of a conversation a lane's waiting parcels are for others."""
SPARE_FROM = 4
"""From how many connections on a mailer keeps one from the stream that has all the others."""


class Worker:
    """One thread of a lane and the connection in its hands."""

    thread: threading.Thread

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.is_connecting = False
        """It holds no parcel: whoever ends the sender need not wait for it."""

    @property
    def last(self) -> Parcel | None:
        """The parcel that goes last by it, of those that it has; None where it wants one."""
        return None

    def drop_connection(self) -> None:
        """Close the connection, which carries nothing more."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()


class Lane:
    """What one mailer has to carry, and by whom."""

    def __init__(self, mailer: str, lock: threading.RLock) -> None:
        self.mailer = mailer
        self.waiting = Shares()
        self.workers: set[Worker] = set()
        self.in_hand: dict[str, int] = {}
        """Parcels without a Result by stream, waiting ones included."""
        self.total = 0
        """How many these are together."""
        self.carried: dict[str, int] = {}
        """Those in a worker's hands by stream."""
        self.hungry = 0
        """How many workers have no parcel, when they were last counted."""
        self.is_shared = False
        """Whether several streams use the mailer, so that none may have all its connections."""
        self.has_opened = False
        """Whether the last try for a connection went well."""
        self.is_suspect = False
        """A fault is on its way to the drain: no more connections before it has judged."""
        self.settled_at = time.monotonic()
        """When a parcel has last come into an empty lane, or left it."""
        self.news = threading.Condition(lock)

    def put(self, parcel: Parcel) -> None:
        """Take a parcel."""
        if not self.total:
            self.settled_at = time.monotonic()
        stream = parcel.message.stream
        self.in_hand[stream] = self.in_hand.get(stream, 0) + 1
        self.total += 1
        self.waiting.put(parcel)

    def count_hungry(self) -> None:
        """Count the workers without a parcel; whoever gives one of them a parcel says so."""
        self.hungry = sum(each.last is None for each in self.workers)

    @property
    def has_enough(self) -> bool:
        """Whether more parcels wait than there are workers without one."""
        return len(self.waiting) > self.hungry

    def count_carried(self, but: Worker) -> None:
        """Count what the workers carry, one of them aside."""
        others = [worker.last for worker in self.workers if worker is not but]
        self.carried = Counter(parcel.message.stream for parcel in others if parcel is not None)

    def is_wanting(self, part: int) -> bool:
        """Whether a parcel waits for a worker, of ``part`` that the lane may have."""
        return self.waiting.next_stream(self._sated(part)) is not None

    def take(self, part: int | None = None) -> Parcel | None:
        """Return the next parcel, None where another thread was faster; `done` gives it back."""
        sated = self._sated(part) if self.is_shared and part is not None else ()
        parcel = self.waiting.take(sated)
        if parcel is not None:
            stream = parcel.message.stream
            self.carried[stream] = self.carried.get(stream, 0) + 1
        return parcel

    def _sated(self, part: int) -> set[str]:
        """Return the streams that have all the workers they may have: one is left for others.

        Else a stream whose conversations are slow would keep the others waiting for their end. Of
        few workers none can be spared.
        """
        if not self.is_shared or part < SPARE_FROM:
            return set()
        return {stream for stream, count in self.carried.items() if count >= part - 1}

    def put_back(self, parcel: Parcel) -> None:
        """Take back a parcel of which no server has said a word, before all of its stream."""
        self.waiting.put_back(parcel)

    def done(self, parcel: Parcel) -> None:
        """Note that a worker has its hands free again."""
        stream = parcel.message.stream
        self.carried[stream] = self.carried.get(stream, 0) - 1

    def settle(self, parcel: Parcel) -> None:
        """Note that there is a result, or will be none."""
        self.settled_at = time.monotonic()
        self.in_hand[parcel.message.stream] -= 1
        self.total -= 1

    @property
    def is_stuck(self) -> bool:
        """Whether its conversations, all of them, have gone on for long."""
        return self.total > 0 and time.monotonic() - self.settled_at > STUCK_AFTER_S

    def empty(self, *, keep_connecting: bool) -> list[Parcel]:
        """Return what waits, and forget it; what may be kept is what would go next."""
        count = sum(worker.is_connecting for worker in self.workers) if keep_connecting else 0
        kept = [parcel for _ in range(count) if (parcel := self.waiting.take())]
        dropped = list(self.waiting)
        self.waiting.clear()
        for parcel in kept:
            self.waiting.put(parcel)
        for parcel in dropped:
            self.in_hand[parcel.message.stream] -= 1
        self.total -= len(dropped)
        return dropped

    @property
    def usable(self) -> int:
        """How many open connections there are by which mail can go."""
        connections = [worker.connection for worker in self.workers]
        return sum(each is not None and each.is_usable for each in connections)

    def works(self, talking: Iterable[Connection]) -> bool:
        """Whether one of its connections talks now, or was opened or used a moment ago."""
        if any(connection.mailer == self.mailer for connection in talking):
            return True
        connections = [worker.connection for worker in self.workers]
        return any(
            each is not None and each.is_usable and each.idle_s < WORKED_LATELY_S
            for each in connections
        )
