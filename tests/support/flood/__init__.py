"""Floods a database with mail from many threads of several processes while drains come and go.

``python -m tests.support.flood`` prints a report in JSON. It makes a database of its own on the
server that PILLARBOX_TEST_DB names, and starts itself again as ``send`` and as ``work``. The flood
comes in salvos, and after each all drains leave: a message that was missed then cannot hide behind
the wakes of later ones. Some salvos are a mere pair of mails, the second within the window in which
its process wakes nobody.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from threading import Thread

SALVOS = 12
PAIRS = 12
SENDERS = 3
THREADS = 4
WORKERS = 3
JOBS_AT_ONCE = 3
MAX_DRAINS = 2
PAUSE_S = 0.15
"""The longest pause of a thread between two mails: drains that linger for 100 ms come and go."""
OPEN_S = 0.3
QUIET_S = 60
WINDOW_S = 0.05
"""W, as the design has it: a process wakes once in this time."""


@dataclasses.dataclass
class Report:
    """What a flood has done."""

    kept: int
    wakes_by_senders: int
    wakes_allowed: float
    jobs: int
    failed_jobs: int
    most_drains: int
    stragglers: list[str]
    missing: list[str]
    doubled: list[str]
    unexpected: list[str]


def salvo_file(salvo: int) -> Path:
    """Return the file whose existence lets the senders begin a salvo."""
    return Path(f"{os.environ['FLOOD_NOTES']}.salvo-{salvo}")


def in_threads(tasks: list[Callable[[], None]]) -> None:
    """Run each in a thread of its own and wait for all; the threads' connections are closed."""
    from django.db import connections

    def run(task: Callable[[], None]) -> None:
        try:
            task()
        finally:
            connections.close_all()

    threads = [Thread(target=run, args=[task]) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
