"""A mail exists if and only if the caller's transaction commits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core import mail
from django.core.mail import EmailMessage
from django.db import connection, transaction
from django.db.transaction import TransactionManagementError
from django.test.utils import CaptureQueriesContext

from pillarbox import send_email, send_emails, signals, testing
from pillarbox.exceptions import IdempotencyConflict
from pillarbox.models import Attachment, Message
from tests.support.transactions import in_thread, rolled_back

ADA = ["ada@example.org"]


@pytest.fixture(autouse=True)
def _no_broker(settings: Any) -> None:
    settings.PILLARBOX = {"ENGINE": "worker"}


@pytest.mark.django_db(transaction=True)
class TestTransactions:
    def test_a_rollback_leaves_nothing_and_sends_nothing(self) -> None:
        announced: list[Message] = []
        receiver = lambda message, **_: announced.append(message)  # noqa: E731
        signals.message_queued.connect(receiver)
        with rolled_back():
            send_email("s", "b", ADA)
            send_email("s", "b", ADA, idempotency_key="k")
            send_email("s", "b", ADA, attachments=[("a.pdf", b"%PDF" * 999, "application/pdf")])
            send_emails([EmailMessage("s", "b", to=ADA)])
        assert not Message.objects.exists()
        assert not Attachment.objects.exists()
        assert testing.deliver() == {}
        assert (mail.outbox, announced) == ([], [])
        send_email("s", "b", ADA, idempotency_key="k")
        assert len(announced) == 1, "the key is free again"

    def test_a_savepoint_takes_back_its_own_mail_alone(self) -> None:
        announced: list[str] = []
        receiver = lambda message, **_: announced.append(message.subject)  # noqa: E731
        signals.message_queued.connect(receiver)
        with transaction.atomic():
            send_email("outer", "b", ADA)
            with rolled_back():
                send_email("inner", "b", ADA)
                with transaction.atomic():
                    send_email("innermost", "b", ADA)
            with transaction.atomic():
                send_email("second", "b", ADA)
            assert announced == []
        assert announced == ["outer", "second"]
        assert testing.deliver() == {"sent": 2}
        assert [email.subject for email in mail.outbox] == ["outer", "second"]

    def test_nobody_else_sees_a_mail_before_the_commit(self) -> None:
        seen: list[int] = []
        with transaction.atomic():
            send_email("s", "b", ADA)
            in_thread(lambda: seen.append(Message.objects.count())).join()
        assert seen == [0]
        assert Message.objects.count() == 1

    def test_a_conflict_does_not_break_the_caller_s_transaction(self) -> None:
        with transaction.atomic():
            first = send_email("s", "b", ADA, idempotency_key="k")
            assert send_email("s", "b", ADA, idempotency_key="k") == first
            with pytest.raises(IdempotencyConflict):
                send_email("other", "b", ADA, idempotency_key="k")
            send_email("and", "goes on", ADA)
        assert Message.objects.count() == 2

    def test_many_are_all_or_none(self) -> None:
        def emails() -> Iterator[EmailMessage]:
            yield from (EmailMessage("s", "b", to=ADA) for _ in range(600))
            yield EmailMessage("one\ntwo", "b", to=ADA)

        with pytest.raises(ValueError, match=r"[Hh]eader") as caught:
            send_emails(emails())
        assert "message number 601" in "".join(caught.value.__notes__)
        assert not Message.objects.exists()

    @pytest.mark.parametrize("key", [None, "k"])
    def test_without_autocommit_nothing_is_written_outside_of_atomic(self, key: str | None) -> None:
        transaction.set_autocommit(False)
        try:
            with CaptureQueriesContext(connection) as queries:
                for call in (
                    lambda: send_email("s", "b", ADA, idempotency_key=key),
                    lambda: send_email("s", "b", ["Zoë <z@example.org>"], idempotency_key=key),
                    lambda: send_emails([EmailMessage("s", "b", to=ADA)]),
                ):
                    with pytest.raises(TransactionManagementError, match=r"transaction\.atomic\("):
                        call()
            assert len(queries) == 0
            transaction.commit()
            with transaction.atomic():
                send_email("s", "b", ADA, idempotency_key=key)
            transaction.commit()
        finally:
            transaction.rollback()
            transaction.set_autocommit(True)
        assert Message.objects.count() == 1

    def test_a_receiver_that_fails_harms_nobody(self, caplog: pytest.LogCaptureFixture) -> None:
        def broken(**_: Any) -> None:
            raise ZeroDivisionError

        signals.message_queued.connect(broken)
        with transaction.atomic():
            send_email("s", "b", ADA)
        assert Message.objects.count() == 1
        assert "A signal receiver failed" in caplog.text


class MailRouter:
    """Keeps Pillarbox's rows in the second database."""

    def db_for_read(self, model: type, **_: Any) -> str | None:
        return self.db_for_write(model)

    def db_for_write(self, model: type, **_: Any) -> str | None:
        return "other" if model._meta.app_label == "pillarbox" else None  # type: ignore[attr-defined]


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
class TestTheRoutersDatabase:
    @pytest.fixture(autouse=True)
    def _routed(self, settings: Any) -> None:
        settings.DATABASE_ROUTERS = ["tests.unit.test_transactions.MailRouter"]

    def test_mail_is_written_and_delivered_there(self) -> None:
        data = b"%PDF" * 999
        send_email("s", "b", ADA, attachments=[("a.pdf", data, "application/pdf")])
        send_emails([EmailMessage("s", "b", to=ADA)])
        send_email("s", "b", ADA, idempotency_key="k")
        assert Message.objects.using("default").count() == 0
        assert Message.objects.using("other").count() == 3
        assert testing.deliver() == {"sent": 3}
        assert mail.outbox[0].attachments[0][1] == data

    def test_a_transaction_on_another_database_does_not_cover_the_mail(self) -> None:
        with rolled_back("default"):
            send_email("kept", "b", ADA)
        with rolled_back("other"):
            send_email("gone", "b", ADA)
        assert [row.subject for row in Message.objects.using("other")] == ["kept"]
