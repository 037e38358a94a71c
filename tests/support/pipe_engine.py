"""An engine whose broker is a pipe: one byte is one wake, and one of the readers gets it.

It writes down every wake, so that a test can count them.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import ClassVar

from pillarbox.engines import base

DRAIN_S = 1.0
"""Short, so that drains hand over to successors during a test."""


class Engine(base.Engine):
    """The descriptor of the pipe and the file for notes come by the environment."""

    name: ClassVar[str] = "pipe"

    def async_task(self, dotted_path: str, *, delay: timedelta | None = None) -> None:
        note("wake")
        os.write(int(os.environ["FLOOD_PIPE"]), b"w")

    def deadline(self) -> base.Deadline:
        return base.Deadline(DRAIN_S)

    def ping(self) -> str:
        return "a pipe"


def note(what: str) -> None:
    """Append one line, in one write, to the notes that all processes share."""
    line = f"{what} {os.getpid()} {time.monotonic()}\n"
    file = os.open(os.environ["FLOOD_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)
