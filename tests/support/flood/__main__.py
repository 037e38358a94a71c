"""Plays one of the three parts of a flood."""

from __future__ import annotations

import sys
from collections.abc import Callable

import django

from tests.support import pipe_engine
from tests.support.flood import coordinator, sender, worker


def main(role: str, *arguments: str) -> None:
    """Set Django up with the engine that counts wakes, and play the part."""
    # The settings know the engines by name only, and this takes the place of one of them.
    sys.modules["pillarbox.engines.celery"] = pipe_engine
    django.setup()
    parts: dict[str, Callable[..., None]] = {
        "coordinate": coordinator.coordinate,
        "send": sender.send,
        "work": worker.work,
    }
    parts[role](*arguments)


main(*sys.argv[1:] or ["coordinate"])
