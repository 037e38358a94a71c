"""The buttons and the actions: what they do, and what they say of it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.utils import timezone

from pillarbox.models import State
from tests.unit.console.staff import act, page, press, queue, text

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("state", "buttons"),
    [
        (State.QUEUED, ["hold", "cancel"]),
        (State.SENDING, ["hold", "cancel"]),
        (State.HELD, ["release", "cancel"]),
        (State.FAILED, ["retry"]),
        (State.IN_DOUBT, ["resolve_sent", "resolve_resend", "hold"]),
        (State.SENT, []),
        (State.PARTLY_SENT, []),
        (State.CANCELLED, []),
        (State.EXPIRED, []),
    ],
)
def test_the_page_has_the_buttons_that_the_state_allows(
    operator: Client, state: State, buttons: list[str]
) -> None:
    message = queue(state=state)

    html = operator.get(page(message)).content.decode()

    assert re.findall(r'name="operation" value="(\w+)"', html) == buttons


@pytest.mark.parametrize(
    "columns",
    [{"state": State.FAILED, "content": ""}, {"state": State.SENDING, "begun_at": timezone.now()}],
)
def test_the_page_has_no_button_that_would_be_refused(
    operator: Client, columns: dict[str, Any]
) -> None:
    message = queue(**columns)

    assert 'name="operation"' not in operator.get(page(message)).content.decode()


@pytest.mark.parametrize(
    ("before", "operation", "after"),
    [
        (State.QUEUED, "cancel", State.CANCELLED),
        (State.QUEUED, "hold", State.HELD),
        (State.HELD, "release", State.QUEUED),
        (State.FAILED, "retry", State.QUEUED),
        (State.IN_DOUBT, "resolve_sent", State.SENT),
        (State.IN_DOUBT, "resolve_resend", State.QUEUED),
    ],
)
def test_a_button_and_an_action_do_the_same(
    operator: Client, before: State, operation: str, after: State
) -> None:
    pressed, chosen = queue(state=before), queue(state=before)

    assert press(operator, pressed, operation).redirect_chain[-1][0].endswith(page(pressed))
    assert "1 message " in text(act(operator, operation, chosen))

    for message in (pressed, chosen):
        message.refresh_from_db()
        assert message.state == after
        assert LogEntry.objects.get(object_id=str(message.pk)).user.username.startswith("user")


def test_an_action_says_what_was_done_and_what_was_refused_and_why(operator: Client) -> None:
    queued, sent = queue(), queue(state=State.SENT)

    shown = text(act(operator, "cancel", queued, sent))

    assert "1 message cancelled." in shown
    assert f"Cannot cancel message {sent.pk}: it is sent" in shown
    sent.refresh_from_db()
    assert sent.state == State.SENT
    assert not LogEntry.objects.filter(object_id=str(sent.pk)).exists()


def test_an_action_gives_five_reasons_and_the_number_of_the_others(operator: Client) -> None:
    sent = [queue(state=State.SENT) for _ in range(7)]

    assert "2 more were refused." in text(act(operator, "cancel", *sent))


def test_an_action_on_all_takes_those_that_can_be_and_a_thousand_at_once(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pillarbox.console.messages.MOST_AT_ONCE", 2)
    queue(state=State.SENT)
    held = [queue(state=State.HELD) for _ in range(3)]

    shown = text(act(operator, "release", held[0], select_across="1"))

    assert "2 messages released." in shown
    assert "run the action again" in shown
    assert "Cannot" not in shown
    assert "1 message released." in text(act(operator, "release", held[0], select_across="1"))


def test_a_button_on_a_stale_page_is_refused_with_the_reason(operator: Client) -> None:
    message = queue(state=State.SENT)

    assert "it is sent" in text(press(operator, message, "cancel"))


def test_an_unknown_operation_or_message_is_not_found(operator: Client) -> None:
    message = queue()

    assert press(operator, message, "delete").status_code == 404
    message.pk += 1
    assert press(operator, message, "cancel").status_code == 404
