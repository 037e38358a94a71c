"""What the ways to the wire have in common: a lane for each mailer, and a fair part of the size."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from pillarbox.delivery.senders.base import Parcel
from pillarbox.delivery.senders.connections import pool
from pillarbox.delivery.senders.lanes import Lane


class Laned:
    """Half a `Sender`: the lanes. ``elsewhere`` says how many mailers are busy outside of it."""

    def __init__(self, connections: int, elsewhere: Callable[[], int]) -> None:
        self._size = connections
        self._elsewhere = elsewhere
        self._lock = threading.RLock()
        self._lanes: dict[str, Lane] = {}
        self._shared: frozenset[str] = frozenset()

    def _staff(self, lane: Lane) -> None:
        """Open the connections that the lane's parcels need, as long as it `_may_grow`."""
        raise NotImplementedError

    def busy(self, but: str = "") -> int:
        """Return how many mailers have parcels in hand, one of them aside."""
        return sum(lane.total > 0 and lane.mailer != but for lane in list(self._lanes.values()))

    def share(self, mailers: Iterable[str]) -> None:
        """Keep one connection of each of these mailers from the stream that has all the others."""
        with self._lock:
            self._shared = frozenset(mailers)
            for lane in self._lanes.values():
                lane.is_shared = lane.mailer in self._shared

    def room(self, mailer: str, stream: str) -> int:
        """How many more parcels of the stream would keep every connection of the mailer busy.

        With one waiting behind each, and whatever other streams have in hand: their turns come
        in between. None where every conversation has gone on for long: others may be faster.
        """
        with self._lock:
            lane = self._lanes.get(mailer)
            if lane is not None and lane.is_stuck:
                return 0
            in_hand = lane.in_hand.get(stream, 0) if lane is not None else 0
            return max(0, self._depth(mailer) * self._part(mailer) - in_hand)

    def _depth(self, mailer: str) -> int:
        """Return how many parcels a connection has use for: one under way, one that waits."""
        return 2

    def _part(self, mailer: str) -> int:
        """Return how many connections the mailer may have now."""
        others = self.busy(but=mailer) + self._elsewhere()
        return min(max(1, self._size // (others + 1)), pool.allowance(mailer, self._size))

    @property
    def in_hand(self) -> int:
        """How many parcels were offered and have neither a Result nor been dropped."""
        with self._lock:
            return sum(lane.total for lane in self._lanes.values())

    def offer(self, parcels: Iterable[Parcel]) -> None:
        """Take parcels, opening connections as long as their mailers may have more."""
        with self._lock:
            lanes: dict[str, Lane] = {}
            for parcel in parcels:
                lane = lanes[parcel.mailer] = self._lane(parcel.mailer)
                lane.put(parcel)
            for lane in lanes.values():
                self._staff(lane)

    def _lane(self, mailer: str) -> Lane:
        if mailer not in self._lanes:
            self._lanes[mailer] = Lane(mailer, self._lock)
            self._lanes[mailer].is_shared = mailer in self._shared
        return self._lanes[mailer]

    def _may_grow(self, lane: Lane) -> bool:
        """Whether what waits needs another connection: one alone, until one has opened."""
        if lane.is_suspect or not lane.waiting or len(lane.workers) >= self._size:
            return False
        wanted = min(self._part(lane.mailer), lane.total) if lane.has_opened else 1
        return len(lane.workers) < wanted

    def halve(self, mailer: str) -> None:
        """Have half as many connections to the mailer, and one more each minute from then on."""
        with self._lock:
            lane = self._lane(mailer)
            pool.halve(mailer, lane.usable + 1)  # the one that was refused
            lane.has_opened = True
