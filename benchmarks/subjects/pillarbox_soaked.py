"""Pillarbox with the years shortened: what `benchmarks.soak` runs; it takes part in no case."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from benchmarks.place import Place, manage
from benchmarks.subjects.pillarbox_mail import Pillarbox

CONTENT, ROWS = timedelta(minutes=5), timedelta(minutes=20)
PRUNE = manage("pillarbox", "prune")


class Soaked(Pillarbox):
    """One worker, and a retention after which an hour has seen everything that a year sees."""

    name, title = "pillarbox_soaked", "Pillarbox, 1 worker"
    setup = (
        "`manage.py pillarbox worker`, default settings but for RETENTION: content "
        f"{CONTENT.seconds // 60} minutes, rows {ROWS.seconds // 60} minutes; "
        "`manage.py pillarbox prune` every minute"
    )

    def settings(self, place: Place) -> dict[str, Any]:
        """Shorten the retention."""
        given = super().settings(place)
        retention = {"content": CONTENT, "rows": ROWS}
        return {**given, "PILLARBOX": {**given["PILLARBOX"], "RETENTION": retention}}


SOAKED = Soaked()
