"""The demo's child processes: each is started, watched and ended by its own id, and by no name."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeVar

STOP_WITHIN_S = 10.0
T = TypeVar("T")


class DemoFailed(Exception):
    """Something did not go as the demo promises; the text says what."""


class Child:
    """A Python process in a group of its own, so that Ctrl-C reaches the demo alone.

    One that ``talks`` prints to the demo in place of its log, and ends when its input is closed.
    """

    def __init__(
        self,
        name: str,
        arguments: list[str],
        environment: dict[str, str],
        log: Path,
        *,
        talks: bool = False,
    ) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                env=environment,
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else errors,
                stderr=errors,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> IO[bytes]:
        """What a process that talks has to say."""
        assert self.process.stdout is not None
        return self.process.stdout

    def check(self) -> None:
        """Raise DemoFailed if the process has ended."""
        if self.process.poll() is not None:
            raise DemoFailed(f"The {self.name} ended by itself with {self.process.returncode}.")

    def stop(self) -> None:
        """End the process: politely, and after 10 s with what it has started."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        elif self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_WITHIN_S)
        # Its group is ours: nobody else is in it, and mostly nobody is left.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def tail(self, lines: int = 15) -> str:
        """Return the end of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def wait_until(
    find: Callable[[], T | None], what: str, *, within_s: float, children: list[Child]
) -> T:
    """Wait until ``find`` finds something and return it.

    Raise DemoFailed after ``within_s``, or as soon as a child has ended.
    """
    until = time.monotonic() + within_s
    while not (found := find()):
        for child in children:
            child.check()
        if time.monotonic() > until:
            raise DemoFailed(f"Waited {within_s:.0f} s in vain for {what}.")
        time.sleep(0.02)
    return found
