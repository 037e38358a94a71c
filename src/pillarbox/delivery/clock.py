"""The database's clock, read every 5 s and counted on in between by this process's own."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

from pillarbox.models import clock

READ_EVERY_S = 5.0


class Clock:
    """What time it is by the clock of the database ``using``, most often without asking it.

    Never ahead of it by more than two clocks come apart within 5 s, and behind by one round trip
    at most: the moment counts from when the answer came.
    """

    def __init__(self, using: str) -> None:
        self._using = using
        self._read: datetime | None = None
        self._read_at = 0.0

    def now(self) -> datetime:
        """Return the moment. Raise what the database raises, where it is asked."""
        elapsed_s = time.monotonic() - self._read_at
        if self._read is None or elapsed_s >= READ_EVERY_S or clock.frozen_at is not None:
            self._read = clock.database_now(self._using)
            self._read_at, elapsed_s = time.monotonic(), 0.0
        return self._read + timedelta(seconds=elapsed_s)
