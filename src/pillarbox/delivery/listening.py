"""How a `worker` waits: for PostgreSQL's word that something was committed, else by looking.

The listener is a thread with a connection of its own, and never reads a row. What it hears only
spares time: the worker looks at the queue by itself too, each 0.5 s while notices are known to
arrive, and each 50 ms while they are not.
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
import time
import uuid
from collections.abc import Callable

from pillarbox.delivery.leases import LINGER_S
from pillarbox.engines import get_engine, notices

logger = logging.getLogger("pillarbox.delivery")

LOOK_OFTEN_S = 0.05
LOOK_SELDOM_S = 0.5
"""How often a worker looks by itself: where nobody tells it of commits, and where it is told."""
PROVE_EVERY_S = 30.0
"""After how long without a notice a listener is sent one, to see that it still hears."""
PROVE_WITHIN_S = 2.0
"""After how long without that one it counts as deaf, and connects anew."""
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0
"""The pauses before it does: 0.5 s, 1, 2, 4, … 60."""
FAREWELL_S = 1.0
_TICK_S = 0.05  # a signal's handler sets a flag and wakes nobody


class Deaf(Exception):
    """No notice came on a connection that listens, as behind a pooler of transactions."""


class Listener:
    """Waits for notices once it is started; until it hears them, for time to pass."""

    def __init__(self, using: str) -> None:
        self._using = using
        self._name = uuid.uuid4().hex
        self._rung = threading.Event()
        self._rings = self._heeded = 0
        self._is_waiting = False
        self._interrupt: Callable[[], None] = lambda: None
        self._thread: _Thread | None = None
        self.look_until = 0.0
        """Until when to look on after the last notice (monotonic): a commit within 50 ms of
        another one's notice gives none."""

    def start(self, interrupt: Callable[[], None]) -> None:
        """Listen, where the project's commits give notice; ``interrupt`` ends another wait."""
        if get_engine().name == "worker" and notices.exist(self._using):
            self._interrupt = interrupt
            self._thread = _Thread(self._using, self._name, self._ring)
            self._thread.start()

    def _ring(self) -> None:
        self.look_until = time.monotonic() + LINGER_S
        self._rings += 1
        self._rung.set()
        if not self._is_waiting:
            self._interrupt()

    @property
    def pause_s(self) -> float:
        """How long the worker may look away."""
        return LOOK_SELDOM_S if self._thread and self._thread.is_heard else LOOK_OFTEN_S

    def heed(self) -> bool:
        """Return whether there was a notice since the last call."""
        rings, self._heeded, before = self._rings, self._rings, self._heeded
        return rings != before

    def prove(self) -> None:
        """See to it that a notice comes now and then. Raise what the database raises."""
        if self._thread and self._thread.wants_proof():
            notices.notify(self._using, self._name)

    def wait(self, seconds: float, stop: threading.Event) -> None:
        """Wait for a notice, or for ``stop``, at most ``seconds``."""
        until = time.monotonic() + seconds
        self._is_waiting = True
        while not stop.is_set() and (left := until - time.monotonic()) > 0:
            if self._rung.wait(min(left, _TICK_S)):
                break
        self._is_waiting = False
        self._rung.clear()

    def close(self) -> None:
        """Stop listening; a server that is silent is not waited for."""
        if self._thread:
            self._thread.close()


class _Thread(threading.Thread):
    """Listens, on one connection after the other, and rings at each notice that says nothing.

    The word ``name`` is this listener's own proof; those of others are passed over.
    """

    def __init__(self, using: str, name: str, ring: Callable[[], None]) -> None:
        super().__init__(name="pillarbox-listener", daemon=True)
        self._using = using
        self._word = name
        self._ring = ring
        self._end, self._ended = socket.socketpair()
        self._is_open = False
        self._asked_at: float | None = None
        self._heard_at: float | None = None
        self._pause_s = FIRST_PAUSE_S
        self._has_complained = False

    @property
    def is_heard(self) -> bool:
        """Whether notices are known to arrive."""
        return self._heard_at is not None

    def wants_proof(self) -> bool:
        """Whether its own word is to be sent now; it then expects it."""
        now = time.monotonic()
        heard_at = self._heard_at
        is_due = heard_at is None or now - heard_at > PROVE_EVERY_S
        if not self._is_open or self._asked_at is not None or not is_due:
            return False
        self._asked_at = now
        return True

    def close(self) -> None:
        """End the thread."""
        self._end.close()
        self.join(FAREWELL_S)

    def run(self) -> None:
        """Listen until `close`, whatever happens."""
        with self._ended:
            while not self._is_over(0):
                try:
                    with notices.Ear(self._using) as ear:
                        self._listen(ear)
                except Exception as error:  # noqa: BLE001 - the worker looks by itself meanwhile
                    self._complain(error)
                was_heard = self.is_heard
                self._is_open, self._asked_at, self._heard_at = False, None, None
                if was_heard:
                    self._ring()  # end a wait that relied upon it
                if self._is_over(self._pause_s):
                    return
                self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _is_over(self, within_s: float) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self._ended, selectors.EVENT_READ)
            return bool(selector.select(within_s))

    def _listen(self, ear: notices.Ear) -> None:
        self._is_open = True
        with selectors.DefaultSelector() as selector:
            selector.register(self._ended, selectors.EVENT_READ)
            selector.register(ear, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select(PROVE_WITHIN_S / 2)]
                if self._ended in ready:
                    return
                self._hear(ear.words() if ready else [])

    def _hear(self, words: list[str]) -> None:
        now = time.monotonic()
        if not words:
            if self._asked_at is not None and now - self._asked_at > PROVE_WITHIN_S:
                raise Deaf("a notice of our own has not come")
            return
        is_first = self._heard_at is None
        self._heard_at, self._asked_at = now, None
        if is_first:
            logger.info("PostgreSQL tells this worker of commits (LISTEN).")
            self._pause_s, self._has_complained = FIRST_PAUSE_S, False
        if is_first or "" in words:
            self._ring()

    def _complain(self, error: Exception) -> None:
        """Say once that commits are not heard, until they are again."""
        if self._has_complained:
            return
        self._has_complained = True
        logger.warning(
            "PostgreSQL does not tell this worker of commits (%s): it looks each %d ms.",
            type(error).__name__,
            LOOK_OFTEN_S * 1000,
        )
