"""Sizes that nobody planned for: many recipients, large attachments, long lines."""

from __future__ import annotations

import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from email.parser import BytesParser
from typing import Any

import pytest
from django.core.mail import EmailMessage
from django.db import connection
from django.test.utils import CaptureQueriesContext

from pillarbox import send_email, send_emails, testing
from pillarbox.exceptions import AttachmentTooLarge
from pillarbox.models import Attachment, Message, Recipient, State
from tests.support.delivered import as_delivered, send_directly
from tests.support.mailers import delivering_to
from tests.support.rendered import faults_of_lines, meaning
from tests.support.smtp_sink import Sink, smtp_sink

ADA = ["ada@example.org"]
MB = 2**20

pytestmark = pytest.mark.django_db


@pytest.fixture
def sink() -> Iterator[Sink]:
    with smtp_sink() as server, delivering_to(server):
        yield server


def many(count: int) -> list[str]:
    return [f"user{number}@example.org" for number in range(count)]


# ------------------------------------------------------------------------------ recipients


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("count", "full"),
    [
        (500, "452 4.5.3 Too many"),
        (500, "452 Too many"),
        (500, "552 Too many"),
        pytest.param(10_000, "452 4.5.3 Too many", marks=pytest.mark.slow),
    ],
)
def test_a_server_with_room_for_100_gets_them_all_by_hundreds_at_once(
    count: int, full: str, sink: Sink
) -> None:
    sink.room, sink.full = 100, full
    send_email("s", "b", [], bcc=many(count))
    started = time.monotonic()
    assert testing.deliver()["sent"] == 1
    took_s = time.monotonic() - started

    came = Counter(address for received in sink.received for address in received.rcpt_tos)
    assert set(came) == set(many(count))
    assert set(came.values()) == {1}
    assert {len(received.rcpt_tos) for received in sink.received} == {100}
    assert sink.asked == count + count // 100 - 1  # nobody is asked for once it is full
    message = Message.objects.get()
    assert message.state == State.SENT
    assert message.attempts == 2  # a long list is not a failing one
    assert set(Recipient.objects.values_list("state", flat=True)) == {"sent"}
    assert Recipient.objects.count() == count
    assert took_s < 300  # a pause between the hundreds would make it an hour


def test_a_list_that_goes_in_parts_is_not_written_anew_for_each(sink: Sink) -> None:
    sink.room = 10
    send_email("s", "b", [], bcc=many(200))
    written = Counter[str]()
    with CaptureQueriesContext(
        connection,
    ) as queries:
        testing.deliver()
    for query in queries:
        sql = query["sql"]
        if 'INTO "pillarbox_recipient"' in sql.replace("`", '"'):
            written["inserted"] += sql.count("@example.org")
    assert len(sink.received) == 20
    # All of them once, and each once more when its turn came.
    assert 200 < written["inserted"] <= 400


def test_recipients_that_wait_for_their_turn_are_recorded_as_pending(sink: Sink) -> None:
    sink.room = 1
    message = send_email("s", "b", many(3), expires_at=None)
    seen: list[dict[str, str]] = []

    def look(**_: Any) -> None:
        seen.append(dict(Recipient.objects.values_list("address", "state")))

    from pillarbox.signals import message_retried

    message_retried.connect(look)
    try:
        testing.deliver()
    finally:
        message_retried.disconnect(look)
    names = many(3)
    assert seen == [
        {names[0]: "sent", names[1]: "pending", names[2]: "pending"},
        {names[0]: "sent", names[1]: "sent", names[2]: "pending"},
    ]
    message.refresh_from_db()
    assert message.state == State.SENT


def test_a_server_with_room_for_nobody_is_asked_once_and_waits_for_the_schedule(
    sink: Sink,
) -> None:
    sink.room = 0
    message = send_email("s", "b", many(50))
    assert testing.deliver() == {"retry": 1}
    assert sink.asked == 1
    message.refresh_from_db()
    assert message.state == State.QUEUED
    assert (message.due_at - message.created_at).total_seconds() > 20
    assert Recipient.objects.filter(state="pending", code=452).count() == 50


def test_one_full_mailbox_among_others_waits_alone(sink: Sink) -> None:
    names = many(5)
    sink.replies[names[2]] = "452 Mailbox full"  # without an enhanced code it may mean either
    message = send_email("s", "b", names)
    testing.deliver()
    message.refresh_from_db()
    assert message.state == State.QUEUED
    pending = Recipient.objects.filter(state="pending")
    assert [row.address for row in pending] == [names[2]]
    came = Counter(address for received in sink.received for address in received.rcpt_tos)
    assert came == Counter([*names[:2], *names[3:]])
    assert (message.due_at - message.created_at).total_seconds() > 20


def test_an_address_named_twice_is_served_once_and_done(sink: Sink) -> None:
    sink.room = 1
    message = send_email("s", "b", ["ada@example.org", "Ada <ADA@example.org>"])
    testing.deliver()
    message.refresh_from_db()
    assert message.state == State.SENT
    assert len(sink.received) == 1


# ----------------------------------------------------------------------------- attachments


def test_an_attachment_of_100_mb_is_refused_at_once_and_is_not_copied() -> None:
    content = bytes(100 * MB)
    tracemalloc.start()
    started = time.monotonic()
    with pytest.raises(AttachmentTooLarge, match=r"104,857,600 bytes are over the limit"):
        send_email("s", "b", ADA, attachments=[("a.bin", content, "application/x-a")])
    took_s = time.monotonic() - started
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert took_s < 2
    assert peak < 5 * MB
    assert not Message.objects.exists()
    assert not Attachment.objects.exists()


def test_100_mb_of_text_are_refused_too() -> None:
    with pytest.raises(AttachmentTooLarge):
        send_email("s", "b", ADA, attachments=[("a.txt", "ü" * (50 * MB), "text/plain")])
    assert not Attachment.objects.exists()


@pytest.mark.timeout(120)
def test_a_raised_limit_lets_30_mb_arrive_intact(settings: Any, sink: Sink) -> None:
    settings.PILLARBOX = {**settings.PILLARBOX, "ATTACHMENTS": {"limit": 40 * MB}}
    # MariaDB takes 16 MB in one statement where nobody has raised max_allowed_packet.
    size = 30 * MB if connection.vendor != "mysql" else 10 * MB
    content = bytes(range(256)) * (size // 256)
    send_email("s", "b", ADA, attachments=[("a.bin", content, "application/x-a")])
    assert testing.deliver() == {"sent": 1}
    (received,) = sink.received
    attached = list(BytesParser().parsebytes(received.data).walk())[-1]
    assert attached.get_payload(decode=True) == content


# ---------------------------------------------------------------------------------- lines


@pytest.mark.parametrize("length", [997, 998, 999, 5000, 200_000])
@pytest.mark.parametrize("letter", ["x", "ü"])
def test_long_lines_of_a_body_go_as_django_sends_them(length: int, letter: str, sink: Sink) -> None:
    text = f"one\n{letter * length}\ntwo\n"
    queued, direct = through_the_queue_and_directly(EmailMessage("s", text, to=ADA), sink)
    assert queued["content"]["content"] == direct["content"]["content"]
    assert queued["content"]["content"].decode().replace("\r\n", "\n") == text


@pytest.mark.parametrize("length", [998, 5000])
@pytest.mark.parametrize("letter", ["x", "x ", "ü"])
def test_long_headers_go_as_django_sends_them(length: int, letter: str, sink: Sink) -> None:
    text = letter * length
    email = EmailMessage(text, "b", to=ADA, headers={"X-Long": text})
    through_the_queue_and_directly(email, sink)
    (came,) = sink.received
    if letter != "x":  # Django 5.2 lets a word be as long as it likes
        assert faults_of_lines(came.data) == []
    assert dict(meaning(came.data)["headers"])["subject"].strip() == text.strip()
    assert dict(meaning(came.data)["headers"])["x-long"].strip() == text.strip()


def through_the_queue_and_directly(email: EmailMessage, sink: Sink) -> tuple[Any, Any]:
    """Deliver both ways, Message-ID and Date being the same."""
    direct = send_directly(email, sink)  # it pins both headers on the message
    sink.received.clear()
    send_emails([email])
    assert testing.deliver() == {"sent": 1}
    (received,) = sink.received
    return as_delivered(received), direct
