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
            self.heard(clock.database_now(self._using))
            elapsed_s = 0.0
        assert self._read is not None
        return self._read + timedelta(seconds=elapsed_s)

    def heard(self, moment: datetime) -> None:
        """Count from this moment, which an answer of the database has just told."""
        self._read, self._read_at = moment, time.monotonic()
