"""Takes from dead drains what they had claimed: to the queue what was not begun, else to doubt.

Writes ``sending`` → ``queued`` and ``in_doubt``. It never touches the network.
"""

from __future__ import annotations

import logging

from django.db.models import Exists, OuterRef

from pillarbox.delivery import claims, database, doubts, looks
from pillarbox.delivery.outcomes import InDoubt, Stage
from pillarbox.models import (
    Attempt,
    DatabaseNow,
    Drain,
    Message,
    Recipient,
    RecipientState,
    State,
    database_now,
)

logger = logging.getLogger("pillarbox.delivery")

RECOVERY_BATCH = 500


def recover(using: str) -> list[Message]:
    """Take from dead drains what they held; return the messages that are now in doubt.

    Not begun: ``queued`` again. Begun: in doubt, and what its policy makes of that. Leases that
    ran out are deleted, which frees their slots. Runs in transactions of its own; where nothing is
    dead, as most often, it is one SELECT.
    """
    if not looks.are_any_dead(using):
        return []
    database.run(using, lambda: _bury(using))
    doubtful: list[Message] = []
    while True:
        found, settled = database.run(using, lambda: _recover_batch(using))
        doubtful += settled
        if found < RECOVERY_BATCH:
            return doubtful


def _bury(using: str) -> None:
    dead = Drain.objects.using(using).filter(lease_until__lte=DatabaseNow())
    # One that was stopped within a transaction keeps its row locked, and must not stop the others.
    # What it claimed is taken from it all the same.
    free = database.skip_locked(dead.order_by("pk")).values_list("pk", flat=True)
    for pk in list(free):  # of several MariaDB would read the whole table, and wait
        Drain.objects.using(using).filter(pk=pk).delete()


def _recover_batch(using: str) -> tuple[int, list[Message]]:
    live = Drain.objects.using(using).filter(pk=OuterRef("drain"), lease_until__gt=DatabaseNow())
    orphans = (
        Message.objects.using(using)
        .filter(~Exists(live), state=State.SENDING, drain__isnull=False)
        .order_by("id")
    )
    held_by = dict(orphans.values_list("pk", "drain")[:RECOVERY_BATCH])
    if not held_by:
        return 0, []
    rows = [
        row
        for row in claims.lock_these(using, held_by)
        if row.state == State.SENDING and row.drain == held_by[row.pk]  # a dead one stays dead
    ]
    waiting = [row for row in rows if row.begun_at is None]
    begun = [row for row in rows if row.begun_at is not None]
    claims.update_rows(using, waiting, state=State.QUEUED, drain=None)
    _doubt(using, begun)
    if rows:
        logger.warning(
            "Recovered from dead drains: %d queued again, %d in doubt.", len(waiting), len(begun)
        )
    return len(rows), begun


def _doubt(using: str, rows: list[Message]) -> None:
    now = database_now(using)
    outcome = InDoubt(stage=Stage.UNKNOWN)
    # Whom an earlier attempt left to be tried again, this one tried.
    tried = Recipient.objects.using(using).filter(message__in=rows, state=RecipientState.PENDING)
    tried.update(state=RecipientState.IN_DOUBT, updated_at=now)
    for row in rows:
        change = doubts.settle(row, now)
        claims.update_rows(using, [row], attempts=row.attempts + 1, **change)
    Attempt.objects.using(using).bulk_create(
        Attempt(
            message=row,
            mailer=row.mailer,
            drain=row.drain,
            started_at=row.begun_at or now,
            result=Attempt.Result.IN_DOUBT,
            stage=outcome.stage,
            reply="The worker died after begin; how far it came is unknown.",
        )
        for row in rows
    )
