"""The page of a message: recipients, attempts, doubts."""

from __future__ import annotations

import re

import pytest
from django.test import Client
from django.utils import timezone

from pillarbox.models import Attempt, Recipient, RecipientState, State
from tests.unit.console.staff import page, queue, text

pytestmark = pytest.mark.django_db


def test_the_page_shows_each_recipient_with_the_servers_reply(viewer: Client) -> None:
    message = queue(recipient_list=["a@x.org", "b@x.org"], state=State.PARTLY_SENT)
    for address, state, code, reply in (
        ("a@x.org", RecipientState.SENT, 250, "queued as 4711"),
        ("b@x.org", RecipientState.FAILED, 550, "5.1.1 No such user"),
    ):
        Recipient.objects.create(
            message=message,
            address=address,
            state=state,
            code=code,
            enhanced_code="5.1.1" if code == 550 else "2.0.0",
            reply=reply,
            updated_at=timezone.now(),
        )

    shown = text(viewer.get(page(message)))

    assert re.search(r"Failed b@x.org To 550 5.1.1 No such user", shown)
    assert re.search(r"Sent a@x.org To 250 2.0.0 queued as 4711", shown)


def test_the_page_shows_to_whom_a_message_is_to_go_before_the_first_attempt(
    viewer: Client,
) -> None:
    message = queue(recipient_list=["a@x.org"], cc=["c@x.org"], bcc=["d@x.org"])

    shown = text(viewer.get(page(message)))

    assert "Pending c@x.org Cc" in shown
    assert "Pending d@x.org Bcc" in shown


def test_the_page_shows_a_thousand_recipients_in_part_the_troubled_first(viewer: Client) -> None:
    message = queue(state=State.PARTLY_SENT)
    Recipient.objects.bulk_create(
        Recipient(
            message=message,
            address=f"user{n}@x.org",
            state=RecipientState.FAILED if n == 999 else RecipientState.SENT,
            updated_at=timezone.now(),
        )
        for n in range(1000)
    )

    shown = text(viewer.get(page(message)))

    assert "user999@x.org" in shown
    assert "user998@x.org" not in shown
    assert "And 800 more." in shown


def test_the_page_shows_the_attempts(viewer: Client) -> None:
    message = queue()
    Attempt.objects.create(
        message=message,
        mailer="smtp",
        server="mail.example.org:587",
        started_at=timezone.now(),
        took_ms=1234,
        result=Attempt.Result.RETRY,
        stage="rcpt",
        code=451,
        enhanced_code="4.7.1",
        reply="Greylisted <script>alert(1)</script>",
    )

    response = viewer.get(page(message))

    assert "smtp mail.example.org:587 1,234 ms rcpt 451 4.7.1 Greylisted" in text(response)
    assert "<script>alert" not in response.content.decode()


def test_the_page_explains_a_doubt(viewer: Client) -> None:
    message = queue(state=State.IN_DOUBT, begun_at=timezone.now(), in_doubt="hold")

    shown = text(viewer.get(page(message)))

    assert "may have been delivered, or not" in shown
    assert "Its policy is to wait for you" in shown
    assert message.message_id in shown


@pytest.mark.parametrize("state", [State.IN_DOUBT, State.HELD])
def test_the_page_says_which_server_and_how_far_the_conversation_went(
    viewer: Client, state: State
) -> None:
    message = queue(state=state, begun_at=timezone.now(), resends=1)
    Attempt.objects.create(
        message=message,
        mailer="smtp",
        server="mail.example.org:587",
        started_at=timezone.now(),
        result=Attempt.Result.IN_DOUBT,
        stage="dot",
        reply="The read operation <b>timed out</b>",
    )

    response = viewer.get(page(message))

    shown = text(response)
    assert "(mailer smtp)" in shown
    assert "Server mail.example.org:587 How far it came the whole message was written" in shown
    assert "The read operation &lt;b&gt;timed out" in response.content.decode()
    assert ("It is held back" if state is State.HELD else "already sent again once") in shown


def test_nobody_is_pending_where_a_dead_worker_left_a_doubt(viewer: Client) -> None:
    message = queue(recipient_list=["a@x.org"], state=State.IN_DOUBT, begun_at=timezone.now())
    assert "In Doubt a@x.org" in text(viewer.get(page(message)))


def test_the_page_of_a_damaged_message_still_opens(viewer: Client) -> None:
    message = queue(content='{"version": 99}')

    assert "a@x.org" in text(viewer.get(page(message)))
