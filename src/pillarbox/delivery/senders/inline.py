"""Sends in the caller's own thread, one message after the other; for tests and small tools."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime

from pillarbox.delivery import outcomes
from pillarbox.delivery.outcomes import Stage
from pillarbox.delivery.senders.base import BATCH_MAX, Begin, Parcel, Result, Word
from pillarbox.delivery.senders.connections import Connection, server_of


class InlineSender:
    """`Sender` without threads: `permit` is the conversation."""

    def __init__(self) -> None:
        self._waiting: deque[Parcel] = deque()
        self._said: deque[Begin | Result] = deque()
        self._connections: dict[str, Connection] = {}
        self._asking: Parcel | None = None

    def room(self, mailer: str, stream: str) -> int:
        """It takes any number, since nobody else waits for them."""
        return BATCH_MAX

    @property
    def in_hand(self) -> int:
        """How many parcels have no result yet."""
        return len(self._waiting) + len(self._said) + (self._asking is not None)

    def offer(self, parcels: Iterable[Parcel]) -> None:
        """Take parcels to send."""
        self._waiting.extend(parcels)

    def collect(self, timeout_s: float) -> list[Word]:
        """Open a connection for the next parcel and ask to begin; the results so far go with it."""
        said: list[Word] = list(self._said)
        self._said.clear()
        if self._waiting and self._asking is None:
            said.append(self._ask(self._waiting.popleft()))
        elif not said and self._asking is not None:
            time.sleep(timeout_s or 0.01)  # the row is locked by somebody: begin tries again
        return said

    def _ask(self, parcel: Parcel) -> Begin | Result:
        try:
            parcel.server = self._open(parcel.mailer).server
        except Exception as error:  # noqa: BLE001 - every fault of a mailer has its outcome
            parcel.server = server_of(parcel.mailer)
            return Result(parcel, outcomes.classify(error, stage=Stage.OPEN))
        self._asking = parcel
        return Begin(parcel)

    def _open(self, mailer: str) -> Connection:
        connection = self._connections.get(mailer)
        if connection is not None and connection.is_worn:
            self._connections.pop(mailer).close()
            connection = None
        if connection is None:
            connection = Connection(mailer)
            connection.open()
            self._connections[mailer] = connection
        return connection

    def prepare(self) -> None:
        """Leave it to the moment of sending."""

    def permit(self, parcel: Parcel, *, allowed: bool) -> None:
        """Send the parcel, now."""
        self._asking = None
        if not allowed:
            return
        connection = self._connections[parcel.mailer]
        started_at, started = datetime.now(UTC), time.monotonic()
        try:
            outcome = connection.send(parcel)
        except Exception as error:  # noqa: BLE001 - an unknown class fails its own message alone
            outcome = outcomes.classify(error, stage=Stage.SEND)
            connection.is_usable = False
        took_s, was_stale = time.monotonic() - started, connection.was_stale(outcome)
        self._said.append(Result(parcel, outcome, started_at, took_s, was_stale))

    def drop_waiting(
        self, mailer: str | None = None, *, keep_connecting: bool = False
    ) -> list[Parcel]:
        """Take back what waits, of one mailer or of all."""
        dropped = [p for p in self._waiting if mailer is None or p.mailer == mailer]
        self._waiting = deque(p for p in self._waiting if p not in dropped)
        return dropped

    def works(self, mailer: str) -> bool:
        """There is one connection to each mailer."""
        return False

    def halve(self, mailer: str) -> None:
        """There is one connection to each mailer."""

    def talking(self) -> list[Parcel]:
        """Nothing is under way between two calls."""
        return []

    def break_off(self) -> None:
        """Nothing is under way between two calls."""

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()
