"""``pillarbox worker``: the drain that never ends and needs no task queue."""

from __future__ import annotations

import gc
import logging
import os
import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from django.db import DatabaseError, InterfaceError

from pillarbox import __version__
from pillarbox.delivery.drain import drain
from pillarbox.engines import worker
from pillarbox.management import logs, stopping, watching
from pillarbox.management.subcommands.base import OK, Subcommand
from pillarbox.management.terminal import Terminal

logger = logging.getLogger("pillarbox.worker")

DATABASE_AGAIN_S = 5.0
OBJECTS_BETWEEN_COLLECTIONS = 20_000
"""Ten times what Python 3.13 starts with, which takes a twentieth of a worker's time."""


class Worker(Subcommand):
    """Delivers, recovers and sweeps until a signal says stop."""

    name = "worker"
    help = (
        "Deliver until told to stop. SIGTERM and Ctrl-C finish the mail in hand and give the rest "
        "back; a second one stops at once. Run as many as you like, on as many hosts."
    )

    def run(self, options: Mapping[str, Any], terminal: Terminal) -> int:
        """Drain again and again: a drain ends when its lease has run out, a worker does not."""
        logs.to_stderr(options["verbosity"])
        place = f"{socket.gethostname()}, process {os.getpid()}"
        tally: Counter[str] = Counter()
        with stopping.by_signals() as stop, _seldom_collecting():
            logger.info("Pillarbox %s: a worker delivers on %s.", __version__, place)
            while not stop.is_set():
                try:
                    tally += drain(engine=worker.Engine({}), stop=stop, forever=True)
                except (DatabaseError, InterfaceError) as error:
                    logger.error("No database (%s); it is tried again in 5 s.", error)
                    stop.wait(DATABASE_AGAIN_S)
        logger.info("The worker stops: %s.", watching.summary(tally))
        terminal.data(dict(tally))
        return OK


@contextmanager
def _seldom_collecting() -> Iterator[None]:
    """Have the garbage of cycles collected more seldom, and never among what is loaded by now.

    A drain leaves next to none. Where the project has switched it off, it stays so.
    """
    first, *further = before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(first and max(first, OBJECTS_BETWEEN_COLLECTIONS), *further)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
