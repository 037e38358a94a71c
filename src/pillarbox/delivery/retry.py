"""When a message is tried again: the worked schedule and its bounds; pure."""

from __future__ import annotations

from datetime import datetime, timedelta

STEPS = (
    timedelta(seconds=30),
    timedelta(minutes=2),
    timedelta(minutes=10),
    timedelta(minutes=30),
    timedelta(hours=1),
)
EVERY = timedelta(hours=2)
JITTER = 0.1
"""A tenth either way, so that what failed together does not come back together."""


def delay(attempts: int, *, jitter: float) -> timedelta:
    """Return the wait after the ``attempts``-th attempt; ``jitter`` is from -1 to 1.

    ========  ========  =============================  ====================
    attempt   waits     with jitter                    tried at (no jitter)
    ========  ========  =============================  ====================
    1         30 s      27 s to 33 s                   0:00:30
    2         2 min     1 min 48 s to 2 min 12 s       0:02:30
    3         10 min    9 to 11 min                    0:12:30
    4         30 min    27 to 33 min                   0:42:30
    5         1 h       54 to 66 min                   1:42:30
    6 and on  2 h       1 h 48 min to 2 h 12 min       3:42:30, 5:42:30, …
    ========  ========  =============================  ====================

    Within the two days of ``retry_for`` that is 28 retries.
    """
    step = STEPS[attempts - 1] if attempts <= len(STEPS) else EVERY
    return step * (1 + JITTER * jitter)


def next_due(
    now: datetime,
    attempts: int,
    *,
    asked: timedelta | None,
    retry_since: datetime,
    retry_for: timedelta,
    expires_at: datetime | None,
    jitter: float,
) -> datetime | None:
    """Return when to try again after ``attempts`` attempts, None where that would be too late.

    ``asked`` is the server's wish (``Retry-After``) and takes the schedule's place: never sooner
    than it says, a tenth later at most, and not before the schedule's first step, since a server
    that always asks for nothing would otherwise be asked without end. Too late is after
    ``retry_since + retry_for``, or not before ``expires_at``::

        now 12:00:00, attempts 1, asked None          12:00:30
        now 12:00:00, attempts 2, asked None          12:02:00
        now 12:00:00, attempts 2, asked 5 min         12:05:00
        now 12:00:00, attempts 2, asked 0 s           12:00:30
        now 12:00:00, attempts 4, expires_at 12:20    None
    """
    due_at = now + (delay(attempts, jitter=jitter) if asked is None else _granted(asked, jitter))
    if due_at > retry_since + retry_for or (expires_at is not None and due_at >= expires_at):
        return None
    return due_at


def _granted(asked: timedelta, jitter: float) -> timedelta:
    return max(asked, STEPS[0]) * (1 + JITTER * abs(jitter))
