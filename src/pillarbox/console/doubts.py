"""What is known of messages in doubt, for the command and the admin; it only reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q, QuerySet

from pillarbox.delivery.doubts import policy_of
from pillarbox.delivery.outcomes import Stage
from pillarbox.models import Attempt, DatabaseNow, Message, State

OLD_AFTER = timedelta(days=1)
"""When `doctor` asks whether anybody looks at the doubts."""
UNKNOWN = "unknown"

HOW_FAR: Mapping[Stage, str] = {
    Stage.OPEN: "before anything of it was said",
    Stage.RENDER: "before anything of it was said",
    Stage.MAIL: "up to MAIL FROM",
    Stage.RCPT: "up to RCPT TO",
    Stage.DATA: "up to DATA",
    Stage.BODY: "the body was under way",
    Stage.DOT: "the whole message was written, the final dot too; the answer is missing",
    Stage.SEND: "handed to the backend, which cannot say how far it came",
    Stage.UNKNOWN: "after begin, unknown",
}


@dataclass(frozen=True)
class Doubt:
    """One message in doubt and what is known of it.

    ``state`` is ``in_doubt``, or ``held`` where a person has put it aside; ``cause`` is how it
    came into doubt, ``resends`` how often it had been sent again by then.
    """

    pk: int
    state: str
    stream: str
    policy: str
    resends: int
    mailer: str
    server: str
    begun_at: datetime | None
    how_far: str
    cause: str
    message_id: str


def all_in_doubt(using: str) -> QuerySet[Message]:
    """Return the messages in doubt, those that were held since included, the oldest first."""
    held = Q(state=State.HELD, begun_at__isnull=False)
    rows = Message.objects.using(using).filter(Q(state=State.IN_DOUBT) | held)
    return rows.defer("content", "metadata", "tags").order_by("pk")


def count_old(using: str) -> int:
    """Return how many wait for a person's decision for longer than `OLD_AFTER`."""
    return all_in_doubt(using).filter(begun_at__lt=DatabaseNow(-OLD_AFTER)).count()


def is_in_doubt(message: Message) -> bool:
    """Whether nobody knows if it was delivered, and nothing more happens by itself."""
    is_held_in_doubt = message.state == State.HELD and message.begun_at is not None
    return message.state == State.IN_DOUBT or is_held_in_doubt


def describe(messages: Sequence[Message]) -> list[Doubt]:
    """Return what is known of each message, in one query for their latest doubtful attempts."""
    if not messages:
        return []
    using = messages[0]._state.db
    found = Attempt.objects.using(using).filter(result=Attempt.Result.IN_DOUBT).order_by("pk")
    latest: dict[int, Attempt] = {}
    for pks in _chunks([message.pk for message in messages]):
        latest.update({row.message_id: row for row in found.filter(message__in=pks)})
    return [_describe(message, latest.get(message.pk)) for message in messages]


def _chunks(pks: Sequence[int], size: int = 500) -> Iterable[Sequence[int]]:
    return (pks[start : start + size] for start in range(0, len(pks), size))


def _describe(message: Message, attempt: Attempt | None) -> Doubt:
    known: dict[str, Any] = {"mailer": message.mailer, "server": UNKNOWN}
    stage, cause = Stage.UNKNOWN, UNKNOWN
    if attempt is not None:
        stage = Stage(attempt.stage) if attempt.stage in set(Stage) else Stage.UNKNOWN
        known = {"mailer": attempt.mailer, "server": attempt.server or UNKNOWN}
        cause = attempt.reply or UNKNOWN
    return Doubt(
        pk=message.pk,
        state=message.state,
        stream=message.stream,
        policy=policy_of(message),
        resends=message.resends,
        begun_at=message.begun_at,
        how_far=HOW_FAR[stage],
        cause=cause,
        message_id=message.message_id,
        **known,
    )
