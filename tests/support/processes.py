"""Starts the worker processes of a test, on its own database, and ends them with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any

SETTINGS_MODULE = "tests.support.process_settings"


def with_settings(env: Mapping[str, str], **settings: Any) -> dict[str, str]:
    """Return the environment of a process whose Django settings differ by these, in JSON."""
    return {
        **env,
        "DJANGO_SETTINGS_MODULE": SETTINGS_MODULE,
        "PILLARBOX_TEST_SETTINGS": json.dumps(settings),
    }


@dataclass
class Worker:
    """A process in a session of its own, and what it has said so far."""

    popen: subprocess.Popen[bytes]
    said: IO[bytes]

    def output(self) -> str:
        """Return everything that it has written to either stream."""
        with open(self.said.name, "rb") as file:
            return file.read().decode(errors="replace")

    def wait_until_said(self, text: str, *, timeout_s: float = 30) -> None:
        """Wait for a text. Raise AssertionError, with all that was said, if it does not come."""
        wait_for(
            lambda: text in self.output() or self.popen.poll() is not None, timeout_s=timeout_s
        )
        assert text in self.output(), f"{text!r} was not said:\n{self.output()}"

    def stop(self, *, timeout_s: float = 30) -> int:
        """Send SIGTERM, wait for the end and return the exit code."""
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(timeout_s)

    def ended(self, *, timeout_s: float = 90) -> str:
        """Wait until it ends well and return what it has said."""
        code = self.popen.wait(timeout_s)
        assert code == 0, f"It ended with {code}:\n{self.output()}"
        return self.output()

    def end(self) -> None:
        """Leave nothing running: ask once, then kill the whole session."""
        with suppress(subprocess.TimeoutExpired):
            if self.popen.poll() is None:
                self.stop(timeout_s=10)
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait(10)


@contextmanager
def running(
    arguments: Sequence[str],
    env: Mapping[str, str],
    *,
    ready: str = "",
    timeout_s: float = 30,
    pass_fds: Sequence[int] = (),
) -> Iterator[Worker]:
    """Run ``python`` with the arguments while the block lasts; wait until it has said ``ready``."""
    with tempfile.NamedTemporaryFile(suffix=".log") as said:
        popen = subprocess.Popen(
            [sys.executable, *arguments],
            env={**env, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=pass_fds,
        )
        worker = Worker(popen, said)
        try:
            if ready:
                worker.wait_until_said(ready, timeout_s=timeout_s)
            yield worker
        except BaseException:
            print(worker.output(), file=sys.stderr)
            raise
        finally:
            worker.end()


def wait_for(condition: Callable[[], Any], *, timeout_s: float = 20) -> Any:
    """Return the first true value of the condition. Raise TimeoutError if none comes."""
    until = time.monotonic() + timeout_s
    while True:
        if value := condition():
            return value
        if time.monotonic() > until:
            raise TimeoutError(f"Not within {timeout_s} s: {condition}")
        time.sleep(0.02)
