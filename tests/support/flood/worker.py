"""Runs real drains, one for every byte of the pipe."""

from __future__ import annotations

import os

from tests.support import pipe_engine
from tests.support.flood import JOBS_AT_ONCE, in_threads


def work() -> None:
    """Run a job for every byte of the pipe, several at once, until a ``q`` comes."""
    in_threads([_work_in_thread] * JOBS_AT_ONCE)


def _work_in_thread() -> None:
    from pillarbox import jobs

    while os.read(int(os.environ["FLOOD_PIPE_END"]), 1) == b"w":
        try:
            jobs.deliver_due()
        except Exception as error:
            pipe_engine.note(f"failed:{type(error).__name__}")
            raise
        finally:
            pipe_engine.note("done")
