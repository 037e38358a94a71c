"""Begin and record are guarded: what another owns is neither sent nor settled."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection

from pillarbox import send_email
from pillarbox.delivery import claims, parcels, recovery, ways
from pillarbox.delivery.leases import Lease
from pillarbox.delivery.ledger import Ledger
from pillarbox.delivery.outcomes import (
    Fail,
    InDoubt,
    MailerDown,
    Outcome,
    PartlySent,
    Reply,
    Retry,
    Sent,
    Stage,
)
from pillarbox.delivery.senders.base import Parcel, Result
from pillarbox.engines.worker import Engine as Worker
from pillarbox.models import DatabaseNow, Drain, Message, RecipientState, State
from pillarbox.outbox import cancel, hold, release, retry
from tests.support.transactions import row_locked

pytestmark = pytest.mark.django_db(transaction=True)

OK = Reply(250, "2.0.0", "queued")
NO = Reply(550, "5.1.1", "nobody here")
LATER = Reply(451, "4.3.0", "not now")


class Desk:
    """A drain's lease and ledger, worked by hand."""

    def __init__(self) -> None:
        self.lease = Lease(Worker({}), "default")
        self.lease.insert(slot=None)
        self.ledger = Ledger(self.lease.id, "default")

    def claim(self) -> Parcel:
        (message,) = claims.claim(self.lease.id, "default", ways.ways(["default"]), 1).messages
        parcel = parcels.address(message)
        assert parcels.fill([parcel], "default") == {}
        return parcel

    def begin(self, parcel: Parcel) -> bool:
        return parcel in self.ledger.commit([parcel], []).begun

    def record(self, parcel: Parcel, outcome: Outcome) -> bool:
        return bool(self.ledger.commit([], [Result(parcel, outcome)]).settled)

    def die(self) -> None:
        Drain.objects.filter(pk=self.lease.id).update(
            lease_until=DatabaseNow(timedelta(seconds=-1))
        )
        recovery.recover("default")


@pytest.fixture
def desk() -> Desk:
    return Desk()


def row() -> Message:
    return Message.objects.get()


def test_a_sent_message_is_sent_with_its_attempt_and_recipients(desk: Desk) -> None:
    send_email("s", "b", ["Ada <Ada@Example.org>"], bcc=["eve@example.org"])
    parcel = desk.claim()
    assert desk.begin(parcel)
    assert desk.record(parcel, Sent(reply=OK, stage=Stage.DOT))

    message = row()
    assert (message.state, message.attempts, message.mailer) == (State.SENT, 1, "default")
    assert message.finished_at is not None
    served = message.recipients.order_by("address").values_list("kind", "address", "state", "code")
    assert list(served) == [
        ("to", "ada@example.org", "sent", 250),
        ("bcc", "eve@example.org", "sent", 250),
    ]
    attempt = message.trail.get()
    assert (attempt.result, attempt.code, attempt.reply) == ("sent", 250, "queued")


def test_a_begin_whose_message_was_cancelled_matches_nothing(desk: Desk) -> None:
    message = send_email("s", "b", ["ada@example.org"])
    parcel = desk.claim()
    cancel(message)
    assert parcel in desk.ledger.commit([parcel], []).lost
    assert row().state == State.CANCELLED


def test_a_message_is_begun_once(desk: Desk) -> None:
    send_email("s", "b", ["ada@example.org"])
    parcel = desk.claim()
    assert desk.begin(parcel)
    assert not desk.begin(parcel)


def test_a_locked_row_does_not_stall_the_group(desk: Desk) -> None:
    if not connection.features.has_select_for_update_skip_locked:
        pytest.skip("SQLite locks no rows: a writer locks out all others")
    first = send_email("first", "b", ["ada@example.org"])
    send_email("second", "b", ["ada@example.org"])
    pair = [desk.claim(), desk.claim()]
    with row_locked(first.pk):
        entry = desk.ledger.commit(pair, [])
    assert [parcel.message.subject for parcel in entry.begun] == ["second"]
    assert [parcel.message.subject for parcel in entry.locked] == ["first"]
    assert desk.begin(pair[0])


def test_a_late_result_settles_a_message_that_is_still_in_doubt_under_its_drain(
    desk: Desk,
) -> None:
    send_email("s", "b", ["ada@example.org"], in_doubt="hold")
    parcel = desk.claim()
    desk.begin(parcel)
    desk.die()
    assert row().state == State.IN_DOUBT
    assert desk.record(parcel, Sent(reply=OK))
    assert row().state == State.SENT


def test_a_late_result_settles_a_message_queued_again_and_not_yet_claimed(desk: Desk) -> None:
    send_email("s", "b", ["ada@example.org"], in_doubt="resend")
    parcel = desk.claim()
    desk.begin(parcel)
    desk.die()
    assert row().state == State.QUEUED
    assert desk.record(parcel, Sent(reply=OK))
    assert row().state == State.SENT


HELD_AND_SETTLED = [
    pytest.param(Sent(reply=OK), State.SENT, "sent", id="sent"),
    pytest.param(Fail(reply=NO), State.FAILED, "failed", id="failed"),
    pytest.param(Retry(reply=LATER), State.HELD, "pending", id="refused for now"),
    pytest.param(InDoubt(stage=Stage.DOT), State.HELD, "in_doubt", id="in doubt"),
]


@pytest.mark.parametrize("policy", ["hold", "resend"])
@pytest.mark.parametrize(("late", "state", "recipient"), HELD_AND_SETTLED)
def test_a_late_result_of_a_doubt_that_a_person_holds_is_kept(
    desk: Desk, policy: Any, late: Outcome, state: State, recipient: str
) -> None:
    message = send_email("s", "b", ["ada@example.org"], in_doubt=policy)
    parcel = desk.claim()
    desk.begin(parcel)
    desk.die()
    held = hold(message)
    assert desk.record(parcel, late)
    now = row()
    assert (now.state, now.resends) == (state, held.resends)
    assert now.recipients.get().state == recipient
    assert (now.begun_at is not None) is (recipient == "in_doubt"), "known, it is no doubt"
    assert (now.finished_at is not None) is (state is not State.HELD)


def test_a_late_partial_result_of_a_held_doubt_leaves_the_rest_to_its_release(desk: Desk) -> None:
    message = send_email("s", "b", ["ada@example.org", "bob@example.org"], in_doubt="hold")
    parcel = desk.claim()
    desk.begin(parcel)
    desk.die()
    hold(message)
    assert desk.record(parcel, PartlySent(reply=OK, recipients={"bob@example.org": LATER}))
    assert row().state == State.HELD
    release(message)
    assert Desk().claim().envelope == ["bob@example.org"]


def test_a_late_result_is_refused_once_a_held_doubt_was_released(desk: Desk) -> None:
    message = send_email("s", "b", ["ada@example.org"], in_doubt="hold")
    parcel = desk.claim()
    desk.begin(parcel)
    desk.die()
    release(hold(message))
    assert not desk.record(parcel, Sent(reply=OK))
    assert row().state == State.QUEUED


def test_a_result_from_before_begin_does_not_touch_what_a_person_holds(desk: Desk) -> None:
    message = send_email("s", "b", ["ada@example.org"])
    parcel = desk.claim()
    hold(message)
    assert not desk.record(parcel, MailerDown())
    assert row().state == State.HELD


def test_a_message_claimed_twice_by_one_drain_begins_once(desk: Desk) -> None:
    message = send_email("s", "b", ["ada@example.org"])
    first = desk.claim()
    release(hold(message))
    second = desk.claim()
    entry = desk.ledger.commit([first, second], [])
    assert len(entry.begun) == len(entry.lost) == 1


def test_a_claim_from_before_an_attempt_begins_nothing(desk: Desk) -> None:
    message = send_email("s", "b", ["ada@example.org", "bob@example.org"])
    old = desk.claim()
    release(hold(message))
    parcel = desk.claim()
    desk.begin(parcel)
    desk.record(parcel, PartlySent(reply=OK, recipients={"bob@example.org": LATER}))
    Message.objects.update(due_at=DatabaseNow())
    current = desk.claim()
    assert old in desk.ledger.commit([old], []).lost, "ada would get it twice"
    assert desk.begin(current)
    assert current.envelope == ["bob@example.org"]


def test_an_attempt_names_its_server(desk: Desk) -> None:
    send_email("s", "b", ["ada@example.org"])
    parcel = desk.claim()
    parcel.server = "smtp.example.org:587"
    desk.begin(parcel)
    desk.record(parcel, Sent(reply=OK))
    assert row().trail.get().server == "smtp.example.org:587"


def test_a_late_result_is_refused_once_another_has_claimed_the_message(desk: Desk) -> None:
    send_email("s", "b", ["ada@example.org"], in_doubt="resend")
    parcel = desk.claim()
    desk.begin(parcel)
    desk.die()
    Message.objects.update(due_at=DatabaseNow())
    other = Desk()
    theirs = other.claim()
    entry = desk.ledger.commit([], [Result(parcel, Sent(reply=OK))])
    assert entry.settled == []
    assert len(entry.refused) == 1
    assert other.begin(theirs)
    assert other.record(theirs, Sent(reply=OK))
    assert row().trail.filter(result="sent").count() == 1


@pytest.mark.parametrize("state", sorted(set(State) - {State.SENDING}))
def test_only_what_is_being_sent_is_begun_even_under_its_drains_name(
    desk: Desk, state: State
) -> None:
    send_email("s", "b", ["ada@example.org"])
    parcel = desk.claim()
    Message.objects.update(state=state)  # no path leads here with the drain's name kept
    assert not desk.begin(parcel)
    assert row().begun_at is None


def test_a_result_does_not_settle_what_another_began_at_the_same_moment(desk: Desk) -> None:
    send_email("s", "b", ["ada@example.org"])
    parcel = desk.claim()
    assert desk.begin(parcel)
    Message.objects.update(drain=Desk().lease.id)
    assert not desk.record(parcel, Sent(reply=OK))
    assert row().state == State.SENDING


def test_of_two_results_of_a_message_in_one_group_only_the_last_begins_counts(desk: Desk) -> None:
    """A drain recorded a doubt, and then sent the message once more itself."""
    send_email("s", "b", ["ada@example.org"], in_doubt="resend")
    first = desk.claim()
    assert desk.begin(first)
    assert desk.record(first, InDoubt(stage=Stage.UNKNOWN))
    Message.objects.update(due_at=DatabaseNow())
    second = desk.claim()
    assert desk.begin(second)
    late, new = Result(first, Fail(reply=NO)), Result(second, Sent(reply=OK))

    entry = desk.ledger.commit([], [late, new])

    assert [result for result, _ in entry.settled] == [new]
    assert entry.refused == [late]
    assert row().state == State.SENT


def test_one_of_two_recipients_refused_is_recorded_as_such(desk: Desk) -> None:
    send_email("s", "b", ["ada@example.org", "bob@example.org"])
    parcel = desk.claim()
    desk.begin(parcel)
    desk.record(parcel, PartlySent(reply=OK, recipients={"bob@example.org": NO}))
    message = row()
    assert message.state == State.PARTLY_SENT
    states = dict(message.recipients.values_list("address", "state"))
    assert states == {"ada@example.org": "sent", "bob@example.org": "failed"}


def test_only_the_deferred_recipient_is_tried_again(desk: Desk) -> None:
    send_email("s", "b", ["ada@example.org", "bob@example.org"])
    parcel = desk.claim()
    desk.begin(parcel)
    desk.record(parcel, PartlySent(reply=OK, recipients={"bob@example.org": LATER}))
    message = row()
    assert (message.state, message.drain, message.begun_at) == (State.QUEUED, None, None)

    Message.objects.update(due_at=DatabaseNow())
    again = desk.claim()
    assert again.envelope == ["bob@example.org"]
    assert again.email is not None
    assert again.email.message()["To"] == "ada@example.org, bob@example.org"
    desk.begin(again)
    desk.record(again, Sent(reply=OK))
    message = row()
    assert (message.state, message.attempts) == (State.SENT, 2)
    assert set(message.recipients.values_list("state", flat=True)) == {RecipientState.SENT}


def test_a_retry_follows_the_schedule_and_ends_with_retry_for(desk: Desk) -> None:
    send_email("s", "b", ["ada@example.org"])
    waits = []
    for _ in range(3):
        parcel = desk.claim()
        desk.begin(parcel)
        desk.record(parcel, Retry(reply=LATER))
        waits.append((row().due_at - datetime.now(UTC)).total_seconds())
        Message.objects.update(due_at=DatabaseNow())
    for wait, meant in zip(waits, (30, 120, 600), strict=True):
        assert 0.85 * meant < wait < 1.15 * meant

    Message.objects.update(retry_since=DatabaseNow(timedelta(days=-2)))
    parcel = desk.claim()
    desk.begin(parcel)
    desk.record(parcel, Retry(reply=LATER))
    assert row().state == State.FAILED
    assert row().recipients.get().state == RecipientState.FAILED


def test_a_mailer_that_is_down_charges_nobody_and_leaves_the_message_due(desk: Desk) -> None:
    send_email("s", "b", ["ada@example.org"])
    parcel = desk.claim()
    desk.record(parcel, MailerDown(reply=Reply(text="refused"), stage=Stage.OPEN))
    message = row()
    assert (message.state, message.attempts, message.drain) == (State.QUEUED, 0, None)
    assert message.due_at == parcel.message.due_at


@pytest.mark.parametrize("has_other_mailer", [True, False])
def test_what_a_mailer_broke_over_lets_others_by_unless_another_mailer_takes_it(
    desk: Desk, *, has_other_mailer: bool
) -> None:
    due_at = send_email("s", "b", ["ada@example.org"]).due_at
    parcel = desk.claim()
    parcel.has_other_mailer = has_other_mailer
    assert desk.begin(parcel)
    desk.record(parcel, MailerDown(reply=Reply(421, text="closing"), stage=Stage.MAIL))
    message = row()
    assert (message.state, message.attempts, message.begun_at) == (State.QUEUED, 0, None)
    waits_s = (message.due_at - due_at).total_seconds()
    assert waits_s < 2 if has_other_mailer else 29 < waits_s < 40


def test_a_failed_message_can_be_retried_by_a_person(desk: Desk) -> None:
    send_email("s", "b", ["ada@example.org"])
    parcel = desk.claim()
    desk.begin(parcel)
    desk.record(parcel, Fail(reply=NO))
    assert row().state == State.FAILED
    retry(row())
    again = desk.claim()
    assert again.envelope == ["ada@example.org"]
    desk.begin(again)
    desk.record(again, Sent(reply=OK))
    assert row().state == State.SENT


@pytest.mark.parametrize(("policy", "state"), [("hold", "in_doubt"), ("resend", "queued")])
def test_a_doubtful_outcome_follows_the_policy(desk: Desk, policy: str, state: str) -> None:
    send_email("s", "b", ["ada@example.org"], in_doubt=policy)  # type: ignore[arg-type]
    parcel = desk.claim()
    desk.begin(parcel)
    desk.record(parcel, InDoubt(reply=Reply(text="timed out"), stage=Stage.DOT))
    message = row()
    assert message.state == state
    assert message.recipients.get().state == RecipientState.IN_DOUBT


def test_sensitive_content_is_erased_with_the_result(desk: Desk) -> None:
    send_email(
        "code 1234",
        "1234",
        ["ada@example.org"],
        sensitive=True,
        attachments=[("a.txt", "1234", "text/plain")],
    )
    parcel = desk.claim()
    desk.begin(parcel)
    desk.record(parcel, Sent(reply=OK))
    message = row()
    assert (message.content, message.subject) == ("", "")
    assert message.attachments.count() == 0
    assert message.is_erased


def test_a_group_with_one_that_is_lost_settles_the_others(desk: Desk) -> None:
    for number in range(3):
        send_email(str(number), "b", ["ada@example.org"])
    group = [desk.claim() for _ in range(3)]
    for parcel in group:
        desk.begin(parcel)
    Message.objects.filter(pk=group[1].message.pk).update(drain=None)
    entry = desk.ledger.commit([], [Result(parcel, Sent(reply=OK)) for parcel in group])
    assert len(entry.settled) == 2
    assert len(entry.refused) == 1
