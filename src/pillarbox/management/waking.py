"""Has delivered at once what a pause kept back."""

from __future__ import annotations

from pillarbox import jobs
from pillarbox.engines import coalesce, get_engine


def deliver_what_waited(using: str) -> None:
    """Wake the engine, or deliver here where it has no workers."""
    if get_engine().is_immediate:
        jobs.deliver_due()
    else:
        coalesce.wake(using, ())
