"""A mailer's parcels and the threads that carry them; guarded by its sender's lock, no sockets."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable

from pillarbox.delivery.senders.base import Parcel
from pillarbox.delivery.senders.connections import Connection

WORKED_LATELY_S = 5.0


class Worker:
    """One thread of a lane and the connection in its hands."""

    thread: threading.Thread

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.is_connecting = False
        """It holds no parcel: whoever ends the sender need not wait for it."""

    def drop_connection(self) -> None:
        """Close the connection, which carries nothing more."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()


class Lane:
    """What one mailer has to carry, and by whom."""

    def __init__(self, mailer: str, lock: threading.RLock) -> None:
        self.mailer = mailer
        self.waiting: deque[Parcel] = deque()
        self.workers: set[Worker] = set()
        self.in_hand = 0
        """Parcels without a Result, waiting ones included."""
        self.has_opened = False
        """Whether the last try for a connection went well."""
        self.is_suspect = False
        """A fault is on its way to the drain: no more connections before it has judged."""
        self.news = threading.Condition(lock)

    def put(self, parcel: Parcel) -> None:
        """Take a parcel."""
        self.in_hand += 1
        self.waiting.append(parcel)

    def take(self) -> Parcel | None:
        """Return the next parcel, None where another thread was faster."""
        return self.waiting.popleft() if self.waiting else None

    def empty(self, *, keep_connecting: bool) -> list[Parcel]:
        """Return what waits, and forget it; what may be kept is the oldest."""
        kept = sum(worker.is_connecting for worker in self.workers) if keep_connecting else 0
        dropped = [*self.waiting][kept:]
        self.waiting = deque([*self.waiting][:kept])
        self.in_hand -= len(dropped)
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
