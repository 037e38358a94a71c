"""Whose turn it is: which ways a drain looks at now, and in what order; in memory, no queries."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from pillarbox.delivery.limits import RETRY_S, Key
from pillarbox.delivery.ways import Way

LOOK_AGAIN_S = 0.05
"""How soon a drain that is busy looks again at a stream in which it found nothing."""
ANEW_EVERY_S = 0.01
"""How often news may have it look sooner, however many processes commit."""


def _name(way: Way) -> tuple[str, ...]:
    """Return what a way is known by from look to look; its limit changes."""
    return way.stream, way.mailer, way.hint


class Turns:
    """What one drain remembers from look to look: empty streams, and buckets without a token."""

    def __init__(self) -> None:
        self._turn = 0
        self._empty_until: dict[tuple[str, ...], float] = {}
        self._anew_at = 0.0
        self._token_at: dict[Key, float] = {}

    def ready(self, ways: Sequence[Way], *, busy: bool = False) -> list[Way]:
        """Return the ways to look at now.

        Those whose bucket is known to lack a token are left out, and while the drain is ``busy``
        those in which it has just found nothing: the others' mail is not to wait for those looks.
        """
        now = time.monotonic()
        return [
            way
            for way in ways
            if self._token_at.get(way.bucket, now) <= now
            and not (busy and self._empty_until.get(_name(way), now) > now)
        ]

    def waiting(self, ways: Sequence[Way]) -> list[Way]:
        """Return the ways whose bucket is known to lack a token."""
        now = time.monotonic()
        return [way for way in ways if self._token_at.get(way.bucket, now) > now]

    def wait_s(self, ways: Sequence[Way]) -> float:
        """Return how long until the first of these may have a token, in seconds."""
        now = time.monotonic()
        return max(
            0.0, min((self._token_at.get(way.bucket, now) for way in ways), default=now) - now
        )

    def in_turn(self, ways: Sequence[Way]) -> list[Way]:
        """Return the ways, another one first each time."""
        self._turn += 1
        start = self._turn % len(ways)
        return [*ways[start:], *ways[:start]]

    def looked(self, ways: Sequence[Way], due: Sequence[Way]) -> None:
        """Note which of the ways that were looked at had something due."""
        until = time.monotonic() + LOOK_AGAIN_S
        full = {_name(way) for way in due}
        for name in map(_name, ways):
            if name in full:
                self._empty_until.pop(name, None)
            else:
                self._empty_until[name] = until

    def look_anew(self) -> None:
        """Forget where nothing was found, at the news that something was committed."""
        now = time.monotonic()
        if now - self._anew_at > ANEW_EVERY_S:
            self._anew_at = now
            self._empty_until.clear()

    def lacked(self, waits: Mapping[Key, float]) -> None:
        """Note for how many seconds each of these buckets has no token for its next message."""
        now = time.monotonic()
        for key, seconds in waits.items():
            self._token_at[key] = now + max(seconds, RETRY_S)
