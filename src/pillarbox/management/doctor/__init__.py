"""The examinations of ``manage.py pillarbox doctor``, in the order in which mail goes."""

from __future__ import annotations

from collections.abc import Iterator

from pillarbox.checks import settings_problems
from pillarbox.management.doctor import database, journey, mailers, settings, workers
from pillarbox.management.doctor.findings import Finding, Grade

__all__ = ["examine"]


def examine(wait_s: float, send_to: str | None = None) -> Iterator[Finding]:
    """Yield what is found, each as soon as it is known.

    What hangs on something that is broken is left out: nothing is said of a queue whose database
    cannot be reached.
    """
    yield from settings.examine()
    if settings_problems():
        return
    is_reachable = True
    for finding in database.examine():
        is_reachable = is_reachable and finding.grade is not Grade.BAD
        yield finding
    if is_reachable:
        yield from settings.examine_journal()
        yield from database.examine_queue()
    yield from mailers.examine()
    if is_reachable:
        yield from mailers.examine_circuits()
    yield from workers.examine_engine()
    if is_reachable:
        yield from workers.examine(wait_s)
        if send_to is not None:
            yield from journey.follow(send_to, wait_s)
