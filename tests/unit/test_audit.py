"""The crash tests' judge condemns what it should: else nothing that it clears is worth anything."""

from __future__ import annotations

import pytest
from django.utils import timezone

from pillarbox import send_email
from pillarbox.models import Attempt, Message, State
from tests.support.audit import Audit, audit

pytestmark = pytest.mark.django_db


def examined(state: State, times: int, *, policy: str = "resend", doubtful: bool = False) -> Audit:
    """Return the audit of one message in this state that was taken so often."""
    message = send_email("s", "b", ["ada@example.org"])
    if doubtful:
        result = Attempt.Result.IN_DOUBT
        Attempt.objects.create(message=message, result=result, started_at=timezone.now())
    Message.objects.filter(pk=message.pk).update(state=state, in_doubt=policy)
    return audit({message.message_id: times} if times else {}, enqueued=1)


@pytest.mark.parametrize(
    ("state", "times", "breach"),
    [
        (State.SENT, 0, "lost"),
        (State.FAILED, 1, "denied"),
        (State.CANCELLED, 1, "denied"),
        (State.SENT, 2, "twice in silence"),
        (State.QUEUED, 0, "unfinished"),
        (State.SENDING, 1, "unfinished"),
    ],
)
def test_each_breach_is_found(state: State, times: int, breach: str) -> None:
    assert list(examined(state, times).breaches) == [breach]


def test_a_row_that_is_gone_is_a_loss_and_a_mail_that_nobody_queued_is_denied() -> None:
    assert audit({"<x@example.org>": 1}, enqueued=1).breaches == {
        "lost": ["a row"],
        "denied": ["<x@example.org>"],
    }


@pytest.mark.parametrize(("state", "times"), [(State.SENT, 1), (State.FAILED, 0)])
def test_what_is_as_it_is_said_to_be_is_no_breach(state: State, times: int) -> None:
    found = examined(state, times)
    assert (found.breaches, found.twice_under_resend, found.in_doubt) == ({}, [], [])


def test_twice_is_allowed_under_resend_after_a_doubt_alone() -> None:
    assert examined(State.SENT, 2, doubtful=True).breaches == {}
    assert examined(State.SENT, 3, doubtful=True).breaches
    assert examined(State.SENT, 2, doubtful=True, policy="hold").breaches


def test_what_is_in_doubt_is_listed_and_no_breach() -> None:
    found = examined(State.IN_DOUBT, 1, policy="hold", doubtful=True)
    assert (found.breaches, len(found.in_doubt)) == ({}, 1)


def test_a_refusal_after_a_doubt_is_told_apart() -> None:
    found = examined(State.FAILED, 1, doubtful=True)
    assert (found.breaches, len(found.failed_after_doubt)) == ({}, 1)
