"""What would block a loop: opening connections and taking leave of servers, in helper threads."""

from __future__ import annotations

import queue
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pillarbox.delivery import outcomes
from pillarbox.delivery.outcomes import Outcome, Stage
from pillarbox.delivery.senders.connections import Connection, pool

FAREWELL_S = 2.0
"""How long the end of a drain waits for servers that are told QUIT."""


@dataclass(slots=True, eq=False)
class Opening:
    """One try for a connection to a mailer, and what came of it."""

    mailer: str
    connection: Connection | None = None
    outcome: Outcome | None = None
    """What it means for a message where there is no connection."""
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: float = field(default_factory=time.monotonic)
    took_s: float = 0.0


class Opener:
    """Opens connections one thread each; a selector that has its `fileno` hears of the end."""

    def __init__(self) -> None:
        self._ears, self._mouth = socket.socketpair()
        self._ears.setblocking(False)
        self._mouth.setblocking(False)
        self._ended: queue.SimpleQueue[Opening] = queue.SimpleQueue()
        self._farewells: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._is_closed = False

    def fileno(self) -> int:
        """The descriptor that becomes readable by `poke`, and whenever a try has ended."""
        return self._ears.fileno()

    def poke(self) -> None:
        """Wake whoever waits; may be called from any thread."""
        with suppress(OSError):  # full, so that it wakes anyway; or closed
            self._mouth.send(b"\0")

    def open(self, mailer: str) -> Opening:
        """Start to open a connection, a kept one if it still answers.

        One that needs no question is there at once, and without a thread.
        """
        opening = Opening(mailer, pool.take_fresh(mailer))
        if opening.connection is not None:
            self._ended.put(opening)
            self.poke()
            return opening
        name = f"pillarbox-{mailer}-opens"
        threading.Thread(target=self._open, args=(opening,), name=name, daemon=True).start()
        return opening

    def _open(self, opening: Opening) -> None:
        try:
            opening.connection = pool.take(opening.mailer)
        except Exception as error:  # noqa: BLE001 - every fault of a mailer has its outcome
            opening.outcome = outcomes.classify(error, stage=Stage.OPEN)
        opening.took_s = time.monotonic() - opening.started
        with self._lock:
            is_late = self._is_closed
            if not is_late:
                self._ended.put(opening)
        if not is_late:
            self.poke()
        elif opening.connection is not None:
            pool.give_back(opening.connection)

    def ended(self) -> list[Opening]:
        """Return the tries that have ended since the last call."""
        with suppress(OSError):
            while self._ears.recv(4096):
                pass
        found: list[Opening] = []
        with suppress(queue.Empty):
            while True:
                found.append(self._ended.get_nowait())
        return found

    def dismiss(self, connection: Connection) -> None:
        """Take leave of a server, which may be slow to answer."""
        thread = threading.Thread(target=connection.close, name="pillarbox-quits", daemon=True)
        self._farewells = [each for each in self._farewells if each.is_alive()]
        self._farewells.append(thread)
        thread.start()

    def close(self) -> None:
        """Keep what has opened for the next drain, and wait a moment for the farewells.

        What opens later is kept as well: a silent server must not hold the stop.
        """
        with self._lock:
            self._is_closed = True
        for opening in self.ended():
            if opening.connection is not None:
                pool.give_back(opening.connection)
        until = time.monotonic() + FAREWELL_S
        for thread in self._farewells:
            thread.join(max(0.0, until - time.monotonic()))
        self._ears.close()
        self._mouth.close()
