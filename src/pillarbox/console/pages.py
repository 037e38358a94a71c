"""What the page of one message shows beside its columns: recipients, attempts, doubt; read only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.utils.safestring import SafeString

from pillarbox.console import doubts, labels, preview
from pillarbox.console.doubts import Doubt
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


# No attempt has told of any address: the worker died, and perhaps a person has decided since.
_UNTRIED = {State.IN_DOUBT: RecipientState.IN_DOUBT, State.SENT: RecipientState.SENT}


def recipients(message: Message) -> Table:
    """Return what became of each address; before the first attempt, to whom it is to go."""
    columns = ("State", "Address", "Field", "Server’s reply", "When")
    # By name `sent` comes last, so that what needs a look is not cut off.
    rows = list(message.recipients.order_by("state", "id")[: MOST_ROWS + 1])
    if rows:
        left_out = message.recipients.count() - MOST_ROWS if len(rows) > MOST_ROWS else 0
        return Table(columns, [_recipient(row) for row in rows[:MOST_ROWS]], left_out)
    untried = preview.addressees(message)
    state = _UNTRIED.get(State(message.state), RecipientState.PENDING)
    lines = [_untried(kind, address, state) for kind, address in untried[:MOST_ROWS]]
    return Table(columns, lines, max(0, len(untried) - MOST_ROWS), "The addresses are erased.")


def _untried(kind: str, address: str, state: RecipientState) -> Line:
    label = labels.state_label(state)
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
    columns = ("Result", "Started", "Mailer", "Server", "Took", "Stage", "Server’s reply")
    rows = list(message.trail.order_by("-id")[: MOST_ROWS + 1])
    left_out = message.trail.count() - MOST_ROWS if len(rows) > MOST_ROWS else 0
    return Table(columns, [_attempt(row) for row in rows[:MOST_ROWS]], left_out, "None yet.")


def _attempt(row: Attempt) -> Line:
    cells = (
        labels.exactly(row.started_at),
        row.mailer or labels.NOTHING,
        row.server or labels.NOTHING,
        labels.NOTHING if row.took_ms is None else f"{row.took_ms:,} ms",
        row.stage or labels.NOTHING,
        _reply(row.code, row.enhanced_code, row.reply),
    )
    return Line(labels.state_label(Attempt.Result(row.result)), cells)


def _reply(code: int | None, enhanced_code: str, text: str) -> str:
    parts = [str(code or ""), "" if text.startswith(enhanced_code) else enhanced_code, text]
    return " ".join(filter(None, parts)) or labels.NOTHING


def doubt(message: Message) -> Doubt | None:
    """Return what is known of a message that may or may not have been delivered."""
    return doubts.describe([message])[0] if doubts.is_in_doubt(message) else None


def context(message: Message) -> dict[str, Any]:
    """Return all of it, as the template names it."""
    known = doubt(message)
    return {
        "doubt": known,
        "doubt_begun_at": labels.exactly(known.begun_at) if known else "",
        "recipients": recipients(message),
        "attempts": attempts(message),
    }
