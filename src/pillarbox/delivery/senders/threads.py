"""One thread a connection, one message a connection at a time; the threads never touch the ORM."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime

from pillarbox.delivery import outcomes
from pillarbox.delivery.outcomes import Stage
from pillarbox.delivery.senders.base import Begin, Parcel, Result
from pillarbox.delivery.senders.connections import Connection, pool


class ThreadsSender:
    """`Sender` for every backend: ``connections`` threads, started as parcels need them."""

    def __init__(self, connections: int) -> None:
        self._size = connections
        self._waiting: queue.SimpleQueue[Parcel | None] = queue.SimpleQueue()
        self._said: queue.SimpleQueue[Begin | Result] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._permits: dict[Parcel, _Permit] = {}
        self._talking: dict[Parcel, Connection] = {}
        self._in_hand = 0
        self._idle = 0
        self._lock = threading.Lock()

    @property
    def room(self) -> int:
        """How many more parcels keep every thread busy, one waiting behind each."""
        return max(0, 2 * self._size - self._in_hand)

    @property
    def in_hand(self) -> int:
        """How many parcels were offered and have neither a Result nor been dropped."""
        return self._in_hand

    def offer(self, parcels: Iterable[Parcel]) -> None:
        """Take parcels, starting a thread for each as long as there are fewer than the size."""
        for parcel in parcels:
            self._in_hand += 1
            self._waiting.put(parcel)
            if len(self._threads) < min(self._size, self._in_hand):
                self._start_thread()

    def _start_thread(self) -> None:
        thread = threading.Thread(
            target=self._work, name=f"pillarbox-{len(self._threads)}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def collect(self, timeout_s: float) -> list[Begin | Result]:
        """Wait for the first word and return it with whatever else has been said."""
        said: list[Begin | Result] = []
        try:
            said.append(self._said.get(timeout=timeout_s) if timeout_s else self._said.get_nowait())
            while True:
                said.append(self._said.get_nowait())
        except queue.Empty:
            self._in_hand -= sum(isinstance(word, Result) for word in said)
            return said

    def permit(self, parcel: Parcel, *, allowed: bool) -> None:
        """Let the thread that waits for this parcel write it, or go on without it."""
        with self._lock:
            waiting = self._permits.pop(parcel)
        if not allowed:
            self._in_hand -= 1
        waiting.answer(allowed=allowed)

    def drop_waiting(self, mailer: str | None = None) -> list[Parcel]:
        """Take back what waits, of one mailer or of all."""
        dropped, kept = [], []
        try:
            while True:
                parcel = self._waiting.get_nowait()
                if parcel is None or (mailer is not None and parcel.mailer != mailer):
                    kept.append(parcel)
                else:
                    dropped.append(parcel)
        except queue.Empty:
            for parcel in kept:
                self._waiting.put(parcel)
        self._in_hand -= len(dropped)
        return dropped

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
        """End the threads; one that still talks ends with its conversation."""
        with self._lock:
            unanswered, self._permits = list(self._permits.values()), {}
        for permit in unanswered:
            permit.answer(allowed=False)
        for _ in self._threads:
            self._waiting.put(None)
        if not self._in_hand:
            for thread in self._threads:
                thread.join()

    def _work(self) -> None:
        kept: dict[str, Connection] = {}
        try:
            while (parcel := self._waiting.get()) is not None:
                result = self._carry(parcel, kept)
                if result is not None:
                    self._said.put(result)
        finally:
            for connection in kept.values():
                pool.give_back(connection)

    def _carry(self, parcel: Parcel, kept: dict[str, Connection]) -> Result | None:
        started_at, started = datetime.now(UTC), time.monotonic()
        try:
            connection = self._open(parcel.mailer, kept)
        except Exception as error:  # noqa: BLE001 - every fault of a mailer has its outcome
            outcome = outcomes.classify(error, stage=Stage.OPEN)
            return Result(parcel, outcome, started_at, time.monotonic() - started)
        if not self._may_begin(parcel):
            return None
        with self._lock:
            self._talking[parcel] = connection
        try:
            outcome = connection.send(parcel)
        except Exception as error:  # noqa: BLE001 - an unknown class fails its own message alone
            outcome = outcomes.classify(error, stage=Stage.SEND)
            connection.is_usable = False
        finally:
            with self._lock:
                del self._talking[parcel]
        return Result(parcel, outcome, started_at, time.monotonic() - started)

    def _open(self, mailer: str, kept: dict[str, Connection]) -> Connection:
        connection = kept.pop(mailer, None)
        if connection is not None and (connection.is_worn or not connection.is_alive()):
            connection.close()
            connection = None
        kept[mailer] = connection if connection is not None else pool.take(mailer)
        return kept[mailer]

    def _may_begin(self, parcel: Parcel) -> bool:
        permit = _Permit()
        with self._lock:
            self._permits[parcel] = permit
        self._said.put(Begin(parcel))
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
