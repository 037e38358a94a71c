"""A stop that signals can ask for; what stops is for the drain to say."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

_TICK_S = 0.05
_SAID = (
    b"Stopping: the mail in hand is finished, the rest goes back into the queue. "
    b"A second signal stops at once and leaves what is in conversation in doubt.\n"
)


class StopFlag(threading.Event):
    """An event that a signal handler may set.

    A handler interrupts the main thread anywhere, in the middle of `threading.Event.wait` too, and
    would wait for ever for the lock that this thread holds. So there is no lock here.
    """

    def __init__(self) -> None:
        super().__init__()
        self._is_raised = False

    def set(self) -> None:
        """Ask to stop."""
        self._is_raised = True

    def is_set(self) -> bool:
        """Whether to stop."""
        return self._is_raised

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, at most ``timeout`` seconds; return whether it is."""
        until = None if timeout is None else time.monotonic() + timeout
        while not self._is_raised:
            left = _TICK_S if until is None else min(_TICK_S, until - time.monotonic())
            if left <= 0:
                break
            time.sleep(left)
        return self._is_raised


@contextlib.contextmanager
def by_signals() -> Iterator[StopFlag]:
    """Give a flag that the first SIGTERM or SIGINT sets; the second ends the process.

    Outside the main thread, where Python allows no handlers, only the caller can set it.
    """
    stop = StopFlag()

    def handle(number: int, _: FrameType | None) -> None:
        if stop.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
            os._exit(128 + number)  # the first process of a container outlives the default
        stop.set()
        # A plain write: Python's streams refuse one that interrupts another.
        with contextlib.suppress(OSError):
            os.write(2, _SAID)

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    former = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
