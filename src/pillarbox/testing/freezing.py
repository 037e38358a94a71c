"""Stops the clock by which mail is due, is retried and expires."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import TracebackType

from pillarbox.models import clock


class FrozenClock:
    """A context manager; inside, Pillarbox's clock stands still and goes on by `move` alone.

    It covers the database's time as Pillarbox reads it and the host's time at the call, on every
    thread of the process. It does not touch ``datetime.now()`` elsewhere.
    """

    def __init__(self, moment: datetime | None = None) -> None:
        if moment is not None and moment.tzinfo is None:
            raise ValueError(f"{moment!r} is naive. Freeze an aware datetime.")
        self._moment = moment
        self._before: datetime | None = None

    @property
    def now(self) -> datetime:
        """The moment at which the clock stands, in UTC."""
        return clock.host_now()

    def move(self, delta: timedelta) -> datetime:
        """Move the clock on by ``delta`` and return the new moment. Raise RuntimeError outside."""
        if clock.frozen_at is None:
            raise RuntimeError("The clock is not frozen. Use it as `with freeze() as clock:`.")
        clock.frozen_at += delta
        return clock.frozen_at

    def __enter__(self) -> FrozenClock:
        self._before = clock.frozen_at
        moment = self._moment if self._moment is not None else clock.host_now()
        clock.frozen_at = moment.astimezone(UTC)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        clock.frozen_at = self._before


def freeze(moment: datetime | None = None) -> FrozenClock:
    """Stop Pillarbox's clock at an aware ``moment``, or now; use it as a context manager::

        with freeze() as clock:
            mailer.defer(451)
            deliver()
            clock.move(timedelta(minutes=1))
            deliver()

    Raise ValueError for a naive datetime.
    """
    return FrozenClock(moment)
