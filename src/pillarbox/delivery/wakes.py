"""The wakes that drains ask for: one more at once, or one later; bounded for each process."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import datetime, timedelta

from pillarbox.delivery.ways import Way
from pillarbox.engines import async_task
from pillarbox.engines.base import SWEEP_INTERVAL
from pillarbox.models import Message, Priority, State

logger = logging.getLogger("pillarbox.delivery")

LATER_TOLERANCE_S = 0.5


def next_due(
    using: str, ways: Sequence[Way], now: datetime, within: timedelta = SWEEP_INTERVAL
) -> timedelta | None:
    """Return how long until the next message of ``ways`` is due, None if not ``within``."""
    soon = Message.objects.using(using).filter(
        state=State.QUEUED,
        stream__in={way.stream for way in ways},
        priority__in=Priority.values,  # so that the claim's index gives a short range
        due_at__gt=now,
        due_at__lte=now + within,
    )
    next_due = soon.order_by("due_at").values_list("due_at", flat=True).first()
    return next_due - now if next_due is not None else None


_later_at: float | None = None
"""When the delayed wake comes that this process has asked for last (monotonic)."""


def wake_later(delay: timedelta) -> None:
    """Ask for a delayed wake, unless one is to come before that: its drain asks anew.

    Without this bound each drain of an outage would leave a wake of its own.
    """
    global _later_at
    now = time.monotonic()
    at = now + delay.total_seconds()
    if _later_at is not None and now < _later_at <= at + LATER_TOLERANCE_S:
        return
    _later_at = at
    wake(delay)


def wake(delay: timedelta | None = None) -> None:
    """Wake one more drain, never coalesced."""
    try:
        async_task("pillarbox.jobs.deliver_due", delay=delay)
    except Exception as error:
        logger.warning("The engine took no wake: %s", type(error).__name__, exc_info=error)
