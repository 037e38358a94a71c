"""What must hold of the messages' rows, said once more and otherwise than the product says it.

Rows before and after one step come in, as `rows` reads them; nothing here calls the product.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Any

from pillarbox.models import FINISHED, TRANSITIONS, Message, State

COLUMNS = (
    *("pk", "state", "drain", "begun_at", "finished_at", "attempts"),
    *("resends", "in_doubt", "expires_at", "sensitive", "content"),
)
RESEND_AFTER = timedelta(seconds=30)
RESULTS = {State.SENT, State.PARTLY_SENT, State.FAILED, State.IN_DOUBT}
TAKEN_AWAY = {State.CANCELLED, State.HELD, State.EXPIRED, State.SUPPRESSED}
OURS = {State.SENDING, State.QUEUED, State.IN_DOUBT, State.HELD}
"""Where a message may be whose begun conversation still counts."""

Row = dict[str, Any]


def rows() -> dict[int, Row]:
    """Read all that the rules look at."""
    return {row["pk"]: row for row in Message.objects.values(*COLUMNS)}


def is_begun(row: Row) -> bool:
    """Whether a conversation about the message has begun, and its end is not known."""
    return row["begun_at"] is not None


def claim_of(row: Row) -> tuple[Any, Any]:
    """Return whose the message is, and since when it is being sent."""
    return row["drain"], row["begun_at"]


def check_row(row: Row, held: Collection[int]) -> None:
    """Hold one row against what is true of each state; ``held`` are those that a person holds."""
    pk, state = row["pk"], State(row["state"])
    assert (row["finished_at"] is not None) is (state in FINISHED), (pk, state)
    assert row["resends"] <= (row["in_doubt"] == "resend"), "one resend, under resend alone"
    if state in FINISHED:
        assert claim_of(row) == (None, None), f"{pk} is {state} and still claimed"
        assert not (row["sensitive"] and row["content"]), f"{pk} is {state} and not erased"
    else:
        assert row["content"], f"{pk} is {state}, and its content is erased"
    if state is State.SENDING:
        assert row["drain"] is not None, f"nobody would find {pk} again"
    if state is State.HELD:
        assert pk in held, f"{pk} is held by nobody's word"
    if state is State.IN_DOUBT:
        is_used = row["in_doubt"] == "hold" or row["resends"] or row["expires_at"]
        assert is_used, f"{pk} should have been sent again"
        assert None not in claim_of(row), f"a late 250 of {pk} would be thrown away"


def check_transition(before: Row, after: Row, now: datetime) -> None:
    """Hold what one step, that ended ``now``, made of a row against the table of transitions."""
    old, new = State(before["state"]), State(after["state"])
    if after["resends"] != before["resends"]:
        assert after["resends"] == before["resends"] + 1
        expires_at = after["expires_at"]
        assert expires_at is None or expires_at > now + RESEND_AFTER, "it expires before it goes"
        assert claim_of(before) == claim_of(after), "a late 250 would be thrown away"
    if old is new:
        if old in FINISHED:
            assert before == after, f"{before['pk']} was finished, and changed"
        if old is State.SENDING:
            assert before["drain"] == after["drain"], "taken from one that was sending"
        return
    assert new in TRANSITIONS[old], f"{old} to {new} is not in the table"
    if old is State.SENDING and new in TAKEN_AWAY:
        assert not is_begun(before), f"{new} after begin"
    if old in {State.QUEUED, State.HELD} and new in RESULTS:
        assert is_begun(before), f"{old} to {new}, and it was not in doubt"
    if new is State.SENDING:
        assert not is_begun(after), "claimed, and begun before"
    if old is State.SENDING and new is State.QUEUED and is_begun(after):
        assert after["resends"] == before["resends"] + 1, "a resend that was not counted"
    if new is State.EXPIRED:
        assert not is_begun(before), "it may have arrived in time"


def may_begin(row: Row, drain: Any, tried: Iterable[datetime], attempts: int) -> bool:
    """Whether a drain may begin what it claimed after so many ``attempts``.

    ``tried`` are the moments of its begins whose commit was not heard of.
    """
    return (
        row["state"] == State.SENDING
        and row["drain"] == drain
        and row["begun_at"] in (None, *tried)
        and row["attempts"] == attempts
    )


def may_give_back(row: Row, drain: Any) -> bool:
    """Whether a drain may put what it claimed back into the queue."""
    return row["state"] == State.SENDING and claim_of(row) == (drain, None)


def may_settle(row: Row, drain: Any, begun_at: datetime | None) -> bool:
    """Whether the result of what a drain began then may still settle the message."""
    # What was found unreadable has a result too, and was never begun.
    known = {State.SENDING} if begun_at is None else OURS
    return State(row["state"]) in known and claim_of(row) == (drain, begun_at)


def may_turn(verb: str, row: Row) -> bool:
    """Whether a person's verb is for a message in this state."""
    state, doubtful = State(row["state"]), is_begun(row)
    match verb:
        case "cancel":
            return state in {State.QUEUED, State.HELD} or (state is State.SENDING and not doubtful)
        case "hold":
            waits = state in {State.QUEUED, State.IN_DOUBT}
            return waits or (state is State.SENDING and not doubtful)
        case "release":
            return state is State.HELD
        case "retry":
            return state is State.FAILED and bool(row["content"])
    return state is State.IN_DOUBT or (state is State.HELD and doubtful)


def check_turned(verb: str, after: Row) -> None:
    """Hold a row that a verb has turned against what that verb promises."""
    becomes = {"cancel": State.CANCELLED, "hold": State.HELD}.get(verb, State.QUEUED)
    if verb == "resolve, sent":
        assert after["state"] in {State.SENT, State.PARTLY_SENT, State.QUEUED}
    else:
        assert after["state"] == becomes, f"{verb}: {after['state']}"
    if verb != "hold":
        assert claim_of(after) == (None, None), f"{verb} has left a claim"


def check_recovered(before: Row, after: Row, *, is_orphan: bool, now: datetime) -> None:
    """Hold a row against what recovery promises; an orphan's drain is dead."""
    changes = {}
    if is_orphan and not is_begun(before):
        changes = {"state": State.QUEUED, "drain": None}
    elif is_orphan:
        again = before["in_doubt"] == "resend" and not before["resends"]
        if before["expires_at"] is not None:
            again = again and before["expires_at"] > now + RESEND_AFTER
        changes = {"state": State.QUEUED if again else State.IN_DOUBT}
        changes |= {"resends": before["resends"] + again, "attempts": before["attempts"] + 1}
    assert after == {**before, **changes}, f"recovery has made {after} of {before}"
