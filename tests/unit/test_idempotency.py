"""One key, one mail: bytewise, over transactions and threads, on every database."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.core.mail import EmailMessage
from django.db import IntegrityError, connection, transaction
from django.db.models.signals import post_save, pre_save

from pillarbox import send_email, send_emails, testing
from pillarbox.exceptions import IdempotencyConflict
from pillarbox.models import Attachment, Message, Pause, Priority, State
from tests.settings import DATABASE
from tests.support.transactions import in_thread, rolled_back

ADA = ["ada@example.org"]


@pytest.fixture(autouse=True)
def _no_broker(settings: Any) -> None:
    settings.PILLARBOX = {"ENGINE": "worker"}


@pytest.mark.django_db
class TestIdempotencyKeys:
    def test_the_same_key_and_content_gives_the_first_message(self) -> None:
        first = send_email("s", "b", ADA, idempotency_key="k")
        second = send_email("s", "b", ADA, idempotency_key="k")
        assert second == first
        assert second.message_id == first.message_id
        assert testing.deliver() == {"sent": 1}
        assert send_email("s", "b", ADA, idempotency_key="k").state == State.SENT

    @pytest.mark.parametrize(
        "other",
        [
            {"subject": "t"},
            {"body": "c"},
            {"html": "<p>"},
            {"recipient_list": ["bob@example.org"]},
            {"cc": ["bob@example.org"]},
            {"from_email": "other@example.org"},
            {"headers": {"X-A": "1"}},
            {"attachments": [("a.pdf", b"other" * 999, "application/pdf")]},
        ],
    )
    def test_another_content_is_a_conflict_that_says_so(self, other: dict[str, Any]) -> None:
        given: dict[str, Any] = {
            "subject": "s",
            "body": "b",
            "recipient_list": ADA,
            "attachments": [("a.pdf", b"%PDF" * 999, "application/pdf")],
            "idempotency_key": "k",
        }
        first = send_email(**given)
        with pytest.raises(IdempotencyConflict, match=rf"'k'.*message {first.pk}.*Use another key"):
            send_email(**given | other)
        assert Message.objects.get() == first

    def test_the_same_attachments_are_the_same_content_and_stored_once(self) -> None:
        files = [("a.pdf", b"%PDF" * 999, "application/pdf")]
        first = send_email("s", "b", ADA, attachments=files, idempotency_key="k")
        assert send_email("s", "b", ADA, attachments=files, idempotency_key="k") == first
        assert Attachment.objects.count() == 1

    def test_a_sensitive_body_is_no_part_of_the_fingerprint(self) -> None:
        given: dict[str, Any] = {"sensitive": True, "idempotency_key": "k"}
        first = send_email("Your code", "123456", ADA, **given)
        assert send_email("Your new code", "654321", ADA, **given) == first
        with pytest.raises(IdempotencyConflict):
            send_email("Your code", "123456", ["bob@example.org"], **given)

    def test_the_key_outlives_the_content(self) -> None:
        given: dict[str, Any] = {"sensitive": True, "idempotency_key": "k"}
        first = send_email("Your code", "123456", ADA, **given)
        testing.deliver()
        first.refresh_from_db()
        assert first.is_erased
        assert send_email("Your code", "123456", ADA, **given) == first

    @pytest.mark.parametrize(
        "other",
        ["K", "k ", " k", "k\t", "ķ", "ｋ", "k\u200b", "k\u0301"],
    )
    def test_keys_are_compared_byte_by_byte(self, other: str) -> None:
        first = send_email("s", "b", ADA, idempotency_key="k")
        second = send_email("s", "b", ADA, idempotency_key=other)
        assert first != second
        second.refresh_from_db()
        assert second.idempotency_key == other
        assert Message.objects.get(idempotency_key=other) == second
        assert send_email("s", "b", ADA, idempotency_key=other) == second

    def test_a_long_key_of_wide_characters_is_kept_whole(self) -> None:
        key = "\U0001f4ee" * 255
        first = send_email("s", "b", ADA, idempotency_key=key)
        first.refresh_from_db()
        assert first.idempotency_key == key
        assert send_email("s", "b", ADA, idempotency_key=key[:-1]) != first

    def test_many_count_only_what_is_new(self) -> None:
        def mailing(*keys: str) -> list[EmailMessage]:
            emails = []
            for key in keys:
                email = EmailMessage("s", "b", to=ADA)
                email.pillarbox = {"idempotency_key": key, "priority": "low"}  # type: ignore[attr-defined]
                emails.append(email)
            return emails

        assert send_emails(mailing("1", "2", "1")) == 2
        assert send_emails(mailing("2", "3")) == 1
        assert {row.priority for row in Message.objects.all()} == {Priority.LOW}


def _unknown_state(instance: Message, **_: Any) -> None:
    instance.state = "nowhere"


def _pause_twice(**_: Any) -> None:
    Pause.objects.create(stream="s")
    Pause.objects.create(stream="s")


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("signal", "receiver"), [(pre_save, _unknown_state), (post_save, _pause_twice)]
)
def test_a_row_refused_for_another_reason_is_no_conflict_of_keys(
    signal: Any, receiver: Callable[..., None]
) -> None:
    signal.connect(receiver, sender=Message)
    try:
        with pytest.raises(IntegrityError):
            send_email("s", "b", ADA, idempotency_key="k")
    finally:
        signal.disconnect(receiver, sender=Message)
    assert not Message.objects.exists()
    assert send_email("s", "b", ADA, idempotency_key="k") == Message.objects.get()


@pytest.mark.django_db(transaction=True)
class TestConcurrentKeys:
    @pytest.mark.parametrize("commits", [True, False])
    def test_a_second_sender_waits_for_the_first_one_s_transaction(self, commits: bool) -> None:
        inserted = threading.Event()
        results: dict[str, Any] = {}

        def first() -> None:
            with transaction.atomic() if commits else rolled_back():
                results["first"] = send_email("s", "b", ADA, idempotency_key="k")
                inserted.set()
                time.sleep(0.5)
                results["ended"] = time.monotonic()

        def second() -> None:
            inserted.wait()
            results["second"] = send_email("s", "b", ADA, idempotency_key="k")
            results["returned"] = time.monotonic()

        for thread in [in_thread(first), in_thread(second)]:
            thread.join()
        assert results["returned"] > results["ended"]
        assert Message.objects.get() == results["second"]
        assert (results["first"].message_id == results["second"].message_id) is commits

    def test_of_many_senders_at_once_one_writes(self) -> None:
        found: list[int] = []
        start = threading.Barrier(6)

        def send() -> None:
            start.wait()
            found.append(send_email("s", "b", ADA, idempotency_key="k").pk)

        for thread in [in_thread(send) for _ in range(6)]:
            thread.join()
        assert found == [Message.objects.get().pk] * 6


if DATABASE != "sqlite":  # whose writers see nothing older than the last commit

    @pytest.mark.django_db(transaction=True)
    def test_a_conflict_with_a_row_out_of_sight_says_so() -> None:
        level = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"  # of the next, on MariaDB
        with connection.cursor() as cursor:
            cursor.execute(level if DATABASE == "mariadb" else "SELECT 1")
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute(level if DATABASE == "postgresql" else "SELECT 1")
            assert not Message.objects.exists()  # the snapshot is taken here
            in_thread(lambda: send_email("s", "b", ADA, idempotency_key="k")).join()
            with pytest.raises(IdempotencyConflict, match=r"'k'.*cannot see.*new one"):
                send_email("s", "b", ADA, idempotency_key="k")
        assert Message.objects.count() == 1
        assert send_email("s", "b", ADA, idempotency_key="k") == Message.objects.get()
