"""What the page of one message shows beside its columns: recipients, attempts, doubt; read only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.utils.safestring import SafeString

from pillarbox.console import labels, preview
from pillarbox.delivery import doubts
from pillarbox.models import Attempt, Message, Recipient, RecipientState, State

MOST_ROWS = 200
"""A mail may have thousands of recipients: the page shows this many, the troubled ones first."""


@dataclass(frozen=True)
class Line:
    """A row of a table: its label, coloured by what it says, and its plain cells."""

    label: SafeString
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Rows to show, and how many more there are."""

    columns: tuple[str, ...]
    lines: list[Line]
    left_out: int = 0
    note: str = ""


def recipients(message: Message) -> Table:
    """Return what became of each address; before the first attempt, to whom it is to go."""
    columns = ("State", "Address", "Field", "Server’s reply", "When")
    # By name `sent` comes last, so that what needs a look is not cut off.
    rows = list(message.recipients.order_by("state", "id")[: MOST_ROWS + 1])
    if rows:
        left_out = message.recipients.count() - MOST_ROWS if len(rows) > MOST_ROWS else 0
        return Table(columns, [_recipient(row) for row in rows[:MOST_ROWS]], left_out)
    untried = preview.addressees(message)
    lines = [_untried(kind, address) for kind, address in untried[:MOST_ROWS]]
    return Table(columns, lines, max(0, len(untried) - MOST_ROWS), "The addresses are erased.")


def _untried(kind: str, address: str) -> Line:
    label = labels.state_label(RecipientState.PENDING)
    return Line(label, (address, Recipient.Kind(kind).label, labels.NOTHING, labels.NOTHING))


def _recipient(row: Recipient) -> Line:
    cells = (
        row.address,
        row.get_kind_display(),
        _reply(row.code, row.enhanced_code, row.reply),
        labels.exactly(row.updated_at),
    )
    return Line(labels.state_label(RecipientState(row.state)), cells)


def attempts(message: Message) -> Table:
    """Return the trail of attempts, the newest first."""
    columns = ("Result", "Started", "Mailer", "Took", "Stage", "Server’s reply")
    rows = list(message.trail.order_by("-id")[: MOST_ROWS + 1])
    left_out = message.trail.count() - MOST_ROWS if len(rows) > MOST_ROWS else 0
    return Table(columns, [_attempt(row) for row in rows[:MOST_ROWS]], left_out, "None yet.")


def _attempt(row: Attempt) -> Line:
    cells = (
        labels.exactly(row.started_at),
        row.mailer or labels.NOTHING,
        labels.NOTHING if row.took_ms is None else f"{row.took_ms:,} ms",
        row.stage or labels.NOTHING,
        _reply(row.code, row.enhanced_code, row.reply),
    )
    return Line(labels.state_label(Attempt.Result(row.result)), cells)


def _reply(code: int | None, enhanced_code: str, text: str) -> str:
    parts = [str(code or ""), "" if text.startswith(enhanced_code) else enhanced_code, text]
    return " ".join(filter(None, parts)) or labels.NOTHING


@dataclass(frozen=True)
class Doubt:
    """What is known of a message in doubt."""

    begun_at: str
    mailer: str
    message_id: str
    policy: str
    resends: int


def doubt(message: Message) -> Doubt | None:
    """Return what to say about a message that may or may not have been delivered."""
    if message.state != State.IN_DOUBT:
        return None
    return Doubt(
        begun_at=labels.exactly(message.begun_at),
        mailer=message.mailer,
        message_id=message.message_id,
        policy=doubts.policy_of(message),
        resends=message.resends,
    )


def context(message: Message) -> dict[str, Any]:
    """Return all of it, as the template names it."""
    return {
        "doubt": doubt(message),
        "recipients": recipients(message),
        "attempts": attempts(message),
    }
