"""A commit without an answer: what took place is found out, and nothing happens twice."""

from __future__ import annotations

import pytest
from django.db import OperationalError

from pillarbox import send_email
from pillarbox.delivery import claims
from pillarbox.delivery.outcomes import InDoubt, Outcome, Reply, Retry, Sent, Stage
from pillarbox.delivery.senders.base import Parcel, Result
from pillarbox.models import DatabaseNow, Message, State
from tests.contracts.test_ledger import Desk
from tests.support.unheard import uncommitted, unheard

pytestmark = pytest.mark.django_db(transaction=True)

OK = Reply(250, "2.0.0", "queued")


@pytest.fixture
def desk() -> Desk:
    return Desk()


def row() -> Message:
    return Message.objects.get()


def commit_unheard(desk: Desk, begins: list[Parcel], results: list[Result]) -> None:
    with unheard(), pytest.raises(OperationalError):
        desk.ledger.commit(begins, results)


def begun_unheard(desk: Desk, in_doubt: str = "hold") -> Parcel:
    send_email("s", "b", ["ada@example.org"], in_doubt=in_doubt)  # type: ignore[arg-type]
    parcel = desk.claim()
    commit_unheard(desk, [parcel], [])
    assert row().begun_at is not None
    return parcel


def test_a_begin_that_was_committed_unheard_is_taken_up_by_the_next_try(desk: Desk) -> None:
    parcel = begun_unheard(desk)
    commit_unheard(desk, [parcel], [])
    assert desk.begin(parcel)
    assert row().begun_at == parcel.message.begun_at
    assert desk.record(parcel, Sent(reply=OK))
    assert row().state == State.SENT


def test_a_begin_that_was_heard_is_not_taken_up_again(desk: Desk) -> None:
    parcel = begun_unheard(desk)
    assert desk.begin(parcel)
    assert not desk.begin(parcel)


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Sent(reply=OK), State.SENT),
        (Retry(reply=Reply(451, "4.3.0", "later")), State.QUEUED),
        (InDoubt(stage=Stage.DOT), State.IN_DOUBT),
    ],
    ids=["sent", "retry", "in doubt"],
)
def test_a_result_that_was_committed_unheard_is_settled_once(
    desk: Desk, outcome: Outcome, state: State
) -> None:
    send_email("s", "b", ["ada@example.org"], in_doubt="hold")
    parcel = desk.claim()
    desk.begin(parcel)
    result = Result(parcel, outcome)
    commit_unheard(desk, [], [result])
    due_at = row().due_at

    entry = desk.ledger.commit([], [result])
    assert [settled for settled, _ in entry.settled] == [result]
    assert entry.refused == []
    message = row()
    assert (message.state, message.attempts, message.due_at) == (state, 1, due_at)
    assert parcel.message.state == state
    assert message.trail.count() == message.recipients.count() == 1


def test_a_result_unheard_is_settled_though_another_has_the_message_by_now(desk: Desk) -> None:
    send_email("s", "b", ["ada@example.org"])
    parcel = desk.claim()
    desk.begin(parcel)
    result = Result(parcel, Retry(reply=Reply(451, "4.3.0", "later")))
    commit_unheard(desk, [], [result])
    Message.objects.update(due_at=DatabaseNow())
    theirs = Desk().claim()

    entry = desk.ledger.commit([], [result])
    assert len(entry.settled) == 1
    message = row()
    assert (message.state, message.drain) == (State.SENDING, theirs.message.drain)
    assert message.trail.count() == 1


def test_a_result_that_was_not_committed_is_recorded_by_the_next_try(desk: Desk) -> None:
    send_email("s", "b", ["ada@example.org"])
    parcel = desk.claim()
    desk.begin(parcel)
    result = Result(parcel, Sent(reply=OK))

    with uncommitted(), pytest.raises(OperationalError):
        desk.ledger.commit([], [result])
    assert row().trail.count() == 0
    assert len(desk.ledger.commit([], [result]).settled) == 1
    assert (row().state, row().trail.count(), row().recipients.count()) == (State.SENT, 1, 1)


def test_what_was_begun_and_never_written_is_queued_again(desk: Desk) -> None:
    parcel = begun_unheard(desk)
    assert desk.ledger.disown([parcel]) == []
    message = row()
    assert (message.state, message.drain, message.begun_at) == (State.QUEUED, None, None)
    assert (message.attempts, Desk().claim().message.pk) == (0, message.pk)


@pytest.mark.parametrize("policy", ["hold", "resend"])
def test_recovery_does_not_leave_in_doubt_what_was_never_written(desk: Desk, policy: str) -> None:
    parcel = begun_unheard(desk, policy)
    desk.die()
    assert row().state == (State.IN_DOUBT if policy == "hold" else State.QUEUED)
    assert desk.ledger.disown([parcel]) == []
    assert (row().state, row().drain, row().begun_at) == (State.QUEUED, None, None)


def test_what_another_has_claimed_since_is_not_disowned(desk: Desk) -> None:
    parcel = begun_unheard(desk, "resend")
    desk.die()
    Message.objects.update(due_at=DatabaseNow())
    other = Desk()
    theirs = other.claim()
    assert other.begin(theirs)
    assert desk.ledger.disown([parcel]) == []
    message = row()
    assert (message.state, message.drain) == (State.SENDING, other.lease.id)
    assert message.begun_at == theirs.message.begun_at


def test_a_claim_that_was_committed_unheard_is_given_back(desk: Desk) -> None:
    known, unknown = (send_email(name, "b", ["ada@example.org"]) for name in ("known", "unknown"))
    assert desk.claim().message == known
    with unheard(), pytest.raises(OperationalError):
        desk.claim()
    assert Message.objects.filter(state=State.SENDING, drain=desk.lease.id).count() == 2

    assert claims.give_back_strays(desk.lease.id, "default", {known.pk}) == 1
    known.refresh_from_db()
    unknown.refresh_from_db()
    assert (known.state, known.drain) == (State.SENDING, desk.lease.id)
    assert (unknown.state, unknown.drain) == (State.QUEUED, None)


def test_what_is_begun_or_anothers_is_no_stray(desk: Desk) -> None:
    for _ in range(2):
        send_email("s", "b", ["ada@example.org"])
    assert desk.begin(desk.claim())
    Desk().claim()
    assert claims.give_back_strays(desk.lease.id, "default", ()) == 0
    assert Message.objects.filter(state=State.SENDING).count() == 2
