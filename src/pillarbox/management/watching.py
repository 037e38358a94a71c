"""Shows a drain's progress by the signals that it sends; it changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pillarbox import signals
from pillarbox.delivery import claims, looks
from pillarbox.management.terminal import Terminal
from pillarbox.models import DatabaseNow, Message, State

_ENDINGS = (
    signals.message_sent,
    signals.message_failed,
    signals.message_retried,
    signals.message_in_doubt,
    signals.message_expired,
)


@contextmanager
def progress(terminal: Terminal, using: str) -> Iterator[None]:
    """Show how many of the messages due now have been tried, while the block drains."""
    streams = claims.streams_to_serve(looks.survey(using))
    due = Message.objects.using(using).filter(
        state=State.QUEUED, stream__in=streams, due_at__lte=DatabaseNow()
    )
    with terminal.progress("Delivering", due.count()) as bar:

        def count(**_: Any) -> None:
            bar.advance()

        for ending in _ENDINGS:
            ending.connect(count, sender=Message)
        try:
            yield
        finally:
            for ending in _ENDINGS:
                ending.disconnect(count, sender=Message)


def summary(tally: dict[str, int]) -> str:
    """Return ``12 sent, 1 failed`` for a drain's tally, in words."""
    words = [f"{count:,} {name.replace('_', ' ')}" for name, count in sorted(tally.items())]
    return ", ".join(words) or "nothing was due"
