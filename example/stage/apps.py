"""Notes when each mail's transaction has committed, in the process that committed it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from django.apps import AppConfig


class StageConfig(AppConfig):
    """Listens to `message_queued`, which is sent right after the commit."""

    name = "stage"

    def ready(self) -> None:
        from pillarbox.signals import message_queued

        message_queued.connect(_note, dispatch_uid="stage.commits")


def _note(*, message: Any, **_: Any) -> None:
    with Path(os.environ["STAGE_COMMITS"]).open("a") as commits:
        commits.write(f"{time.time()} {message.message_id}\n")


def read_commits(path: Path) -> dict[str, float]:
    """Return the moment of the commit by Message-ID."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {message_id: float(moment) for moment, message_id in (line.split() for line in lines)}
