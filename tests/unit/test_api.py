"""`send_email` and its kin: what a call writes, in which transaction, and what it refuses."""

from __future__ import annotations

import inspect
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.mime.base import MIMEBase
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core import mail
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils.functional import lazystr

import pillarbox
from pillarbox import asend_email, asend_emails, compat, send_email, send_emails, signals, testing
from pillarbox.backends.smtp import EmailBackend as SMTPBackend
from pillarbox.delivery import routes
from pillarbox.exceptions import AttachmentTooLarge, IdempotencyConflict, InvalidMessage
from pillarbox.models import Attachment, Message, Priority, Recipient, State
from tests.settings import DATABASE
from tests.support.smtp_sink import Sink, smtp_sink

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ADA = ["ada@example.org"]


@pytest.fixture(autouse=True)
def _no_broker(settings: Any) -> None:
    """A commit here wakes nobody: these tests look at rows and deliver by themselves."""
    settings.PILLARBOX = {"ENGINE": "worker"}


@pytest.fixture
def sink() -> Iterator[Sink]:
    """A real server that every mailer delivers to."""
    identity: dict[str, Any] = {"alias": "default"} if compat.HAS_MAILERS else {}
    with smtp_sink() as server:
        routes.override = lambda _: SMTPBackend(host=server.host, port=server.port, **identity)
        yield server
        routes.override = None


@contextmanager
def rolled_back(using: str = "default") -> Iterator[None]:
    """A transaction, or within one a savepoint, that ends in an error."""
    with suppress(ZeroDivisionError), transaction.atomic(using=using):
        yield
        raise ZeroDivisionError


def in_thread(work: Callable[[], Any]) -> threading.Thread:
    """Run ``work`` on a connection of its own."""

    def run() -> None:
        try:
            work()
        finally:
            connections.close_all()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


class TestValidation:
    """Whatever could be told at the call is told there, and nothing is written."""

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"recipient_list": []}, ["recipient_list is empty", "at least one"]),
            ({"recipient_list": "ada@example.org"}, ["recipient_list", "str", "list of addresses"]),
            ({"recipient_list": None}, ["recipient_list is None"]),
            ({"recipient_list": ["a@b.example", ""]}, ["recipient_list holds ''"]),
            ({"recipient_list": [None]}, ["recipient_list holds None"]),
            ({"recipient_list": [b"a@b.example"]}, ["recipient_list holds b'a@b.example'"]),
            ({"recipient_list": [*ADA, "bob@"]}, ["recipient_list[1]", "bob@", 'Pass "ada@']),
            ({"recipient_list": ["a@b.example, c@d.example"]}, ["recipient_list[0]"]),
            ({"recipient_list": ["a@b.example\nBcc: c@d.example"]}, ["recipient_list[0]"]),
            ({"cc": "ada@example.org"}, ["cc is of type str"]),
            ({"cc": ["bob@"]}, ["cc[0]", "bob@"]),
            ({"bcc": ["bob@"]}, ["bcc[0]", "bob@"]),
            ({"bcc": {"a@b.example": 1}}, ["bcc is of type dict"]),
            ({"reply_to": ["bob\n@b.example"]}, ["reply_to[0]"]),
            ({"from_email": "shop@"}, ["from_email", "shop@"]),
            ({"from_email": ADA}, ["from_email is of type list", "string"]),
            ({"subject": "one\ntwo"}, ["subject cannot be sent", "one line"]),
            ({"subject": "one\rtwo"}, ["subject cannot be sent", "one line"]),
            ({"subject": None}, ["subject is None", "string"]),
            ({"subject": "\ud800"}, ["subject cannot be sent", "valid Unicode"]),
            ({"body": None}, ["body is None", "string"]),
            ({"body": b"bytes"}, ["body is of type bytes"]),
            ({"body": "\ud800"}, ["body cannot be sent", "valid Unicode"]),
            ({"html": 7}, ["html is of type int"]),
            ({"html": "\ud800"}, ["html cannot be sent", "valid Unicode"]),
            ({"headers": ["X-A"]}, ["headers is of type list", "dictionary"]),
            ({"headers": {"X-A": "one\ntwo"}}, ["headers['X-A']", "one-line"]),
            ({"headers": {"X-A": 7}}, ["headers['X-A'] is of type int", "string"]),
            ({"headers": {"X A": "7"}}, ["headers has the name 'X A'", "ASCII"]),
            ({"headers": {"X-A: 1\nX-B": "7"}}, ["headers has the name"]),
            ({"headers": {"bcc": "eve@example.org"}}, ["headers has Bcc", "bcc instead"]),
            ({"attachments": "a.txt"}, ["attachments is of type str", "(filename, content"]),
            ({"attachments": ["a.txt"]}, ["attachments[0] is of type str"]),
            ({"attachments": ("a.txt", b"", "text/plain")}, ["attachments[0] is of type str"]),
            ({"attachments": [("a.txt",)]}, ["attachments[0] is of type tuple"]),
            ({"attachments": [("a.txt", b"x"), ("b.txt", None)]}, ["attachments[1]"]),
            ({"stream": "bulk"}, ["stream is 'bulk'", 'PILLARBOX["STREAMS"]']),
            ({"priority": "urgent"}, ["priority is 'urgent'"]),
            ({"send_at": datetime(2030, 1, 1)}, ["send_at", "naive"]),  # noqa: DTZ001
            ({"expires_at": datetime(2030, 1, 1)}, ["expires_at", "naive"]),  # noqa: DTZ001
            ({"expires_at": timedelta(-1)}, ["expires_at", "later"]),
            ({"idempotency_key": ""}, ["idempotency_key"]),
            ({"in_doubt": "maybe"}, ["in_doubt is 'maybe'"]),
            ({"tags": "sale"}, ["tags is 'sale'"]),
            ({"metadata": {"at": NOON}}, ["metadata", "JSON"]),
            ({"sensitive": "yes"}, ["sensitive is 'yes'"]),
        ],
    )
    @pytest.mark.django_db
    def test_a_wrong_argument_is_named_with_the_remedy(
        self, given: dict[str, Any], words: list[str]
    ) -> None:
        arguments: dict[str, Any] = {"subject": "s", "body": "b", "recipient_list": ADA, **given}
        with pytest.raises(InvalidMessage) as caught:
            send_email(**arguments)
        for word in words:
            assert word in str(caught.value)
        assert not Message.objects.exists()
        assert not Attachment.objects.exists()

    def test_the_settings_own_sender_is_named_where_it_is_at_fault(self, settings: Any) -> None:
        settings.DEFAULT_FROM_EMAIL = "shop@"
        with pytest.raises(InvalidMessage, match="DEFAULT_FROM_EMAIL"):
            send_email("s", "b", ADA)

    def test_attachments_over_the_limit_are_refused_together(self, settings: Any) -> None:
        settings.PILLARBOX = {"ATTACHMENTS": {"limit": 1000}}
        files = [(f"{n}.bin", b"x" * 400, "application/octet-stream") for n in range(3)]
        with pytest.raises(AttachmentTooLarge, match=r"attachments: 1,200 bytes.*limit of 1,000"):
            send_email("s", "b", ADA, attachments=files)

    @pytest.mark.django_db
    def test_only_copies_are_recipients_enough(self) -> None:
        assert send_email("s", "b", [], bcc=ADA).first_recipient == "ada@example.org"

    @pytest.mark.django_db
    def test_lazy_texts_are_resolved_at_the_call(self) -> None:
        texts: list[Any] = [lazystr("Hello"), lazystr("Hi"), lazystr("<p>Hi")]
        send_email(texts[0], texts[1], ADA, html=texts[2])
        testing.deliver()
        assert (mail.outbox[0].subject, mail.outbox[0].body) == ("Hello", "Hi")

    @pytest.mark.django_db
    @pytest.mark.parametrize("kind", [list, tuple, set, frozenset])
    def test_recipients_come_in_any_collection(self, kind: Callable[[list[str]], Any]) -> None:
        send_email("s", "b", kind(ADA))
        testing.assert_queued(to="ada@example.org")


@pytest.mark.django_db
class TestTheRow:
    def test_it_has_what_was_said(self, settings: Any) -> None:
        settings.PILLARBOX = {"STREAMS": {"bulk": {}}}
        with testing.freeze(NOON):
            message = send_email(
                "Grüße",
                "Hi",
                ["Ada <Ada@Example.org>", "bob@example.org"],
                cc=["c@example.org"],
                from_email="Shop <shop@example.com>",
                stream="bulk",
                priority="high",
                send_at=timedelta(hours=1),
                expires_at=NOON + timedelta(days=1),
                in_doubt="hold",
                idempotency_key="k",
                tags=["order"],
                metadata={"order": 7},
                sensitive=True,
            )
        assert message.due_at == message.date == NOON + timedelta(hours=1)
        row = Message.objects.get()
        assert row == message
        assert row.state == State.QUEUED
        assert (row.stream, row.priority, row.in_doubt) == ("bulk", Priority.HIGH, "hold")
        assert row.due_at == row.date == row.retry_since == NOON + timedelta(hours=1)
        assert row.expires_at == NOON + timedelta(days=1)
        assert row.created_at == NOON
        assert (row.subject, row.from_email) == ("Grüße", "Shop <shop@example.com>")
        assert (row.first_recipient, row.recipient_count) == ("ada@example.org", 3)
        assert (row.idempotency_key, row.tags, row.metadata) == ("k", ["order"], {"order": 7})
        assert row.sensitive
        assert row.message_id.endswith("@example.com>")
        assert not Recipient.objects.exists(), "recipients are written by the worker"

    def test_without_a_time_it_is_due_by_the_databases_clock(self) -> None:
        before = pillarbox.models.database_now("default")
        message = send_email("s", "b", ADA)
        message.refresh_from_db()
        assert before <= message.due_at <= pillarbox.models.database_now("default")
        assert message.due_at == message.created_at == message.retry_since

    def test_a_message_in_hand_has_readable_times(self) -> None:
        message = send_email("s", "b", ADA)
        for moment in (message.due_at, message.created_at, message.retry_since):
            assert abs(moment - datetime.now(UTC)) < timedelta(minutes=1)

    def test_a_moment_in_the_past_is_due_now(self) -> None:
        with testing.freeze(NOON):
            message = send_email("s", "b", ADA, send_at=NOON - timedelta(days=1))
            assert message.date == NOON
            assert testing.deliver() == {"sent": 1}

    def test_a_header_of_the_caller_pins_the_message_id(self) -> None:
        message = send_email("s", "b", ADA, headers={"message-id": "<mine@example.org>"})
        assert message.message_id == "<mine@example.org>"

    def test_long_subjects_are_cut_for_looking_and_sent_whole(self) -> None:
        message = send_email("ß" * 300, "b", ADA)
        message.refresh_from_db()
        assert message.subject == "ß" * 255
        testing.deliver()
        assert mail.outbox[0].subject == "ß" * 300


@pytest.mark.django_db
class TestQueries:
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"html": "<p>Hi", "cc": ["c@example.org"], "reply_to": ADA, "headers": {"X-A": "1"}},
            {"send_at": timedelta(1), "tags": ["a"], "metadata": {"a": 1}, "sensitive": True},
        ],
    )
    def test_a_mail_without_key_and_attachments_is_one_insert_and_no_other_query(
        self, options: dict[str, Any]
    ) -> None:
        with CaptureQueriesContext(connection) as queries:
            send_email("s", "b", ADA, **options)
        assert len(queries) == 1
        assert queries[0]["sql"].startswith("INSERT INTO")

    def test_a_key_costs_a_savepoint(self) -> None:
        with CaptureQueriesContext(connection) as queries:
            send_email("s", "b", ADA, idempotency_key="k")
        assert [query["sql"].split()[0] for query in queries] == ["SAVEPOINT", "INSERT", "RELEASE"]

    def test_many_are_few_statements(self) -> None:
        emails = [EmailMessage(f"No {n}", "b", to=ADA) for n in range(1000)]
        with CaptureQueriesContext(connection) as queries:
            assert send_emails(emails) == 1000
        # Django 5.2 gives SQLite at most 999 values in a statement.
        assert len(queries) <= 40


@pytest.mark.django_db(transaction=True)
def test_in_autocommit_it_is_one_query_too() -> None:
    with CaptureQueriesContext(connection) as queries:
        send_email("s", "b", ADA)
    assert len(queries) == 1


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
        settings.DATABASE_ROUTERS = ["tests.unit.test_api.MailRouter"]

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


@pytest.mark.django_db
class TestMany:
    def test_the_options_hold_for_all_and_a_message_s_own_for_itself(self, settings: Any) -> None:
        settings.PILLARBOX = {"STREAMS": {"bulk": {}, "news": {}}}
        plain, own = EmailMessage("1", "b", to=ADA), EmailMessage("2", "b", to=ADA)
        own.pillarbox = {"stream": "news", "tags": ["own"]}  # type: ignore[attr-defined]
        assert send_emails([plain, own], stream="bulk", tags=["all"], priority="low") == 2
        first, second = Message.objects.order_by("pk")
        assert (first.stream, first.tags, first.priority) == ("bulk", ["all"], Priority.LOW)
        assert (second.stream, second.tags, second.priority) == ("news", ["own"], Priority.LOW)

    def test_a_wrong_option_of_one_is_told_with_its_number(self) -> None:
        emails = [EmailMessage(str(n), "b", to=ADA) for n in range(3)]
        emails[2].pillarbox = {"steam": "news"}  # type: ignore[attr-defined]
        with pytest.raises(InvalidMessage, match="'stream'") as caught:
            send_emails(emails)
        assert caught.value.__notes__[-1] == "It is message number 3 of those given."

    def test_one_without_recipients_is_told_too(self) -> None:
        with pytest.raises(InvalidMessage, match="no recipients"):
            send_emails([EmailMessage("s", "b")])

    def test_none_at_all_is_nothing(self) -> None:
        assert send_emails([]) == 0
        assert send_emails(iter(())) == 0

    def test_an_attachment_that_they_share_is_stored_once(self) -> None:
        file = ("a.pdf", b"%PDF" * 999, "application/pdf")
        emails = (EmailMessage("s", "b", to=ADA, attachments=[file]) for _ in range(600))
        assert send_emails(emails) == 600
        attachment = Attachment.objects.get()
        assert attachment.messages.count() == 600
        assert testing.deliver() == {"sent": 600}
        assert {email.attachments[0][1] for email in mail.outbox} == {file[1]}

    @pytest.mark.slow
    def test_a_generator_of_many_leaves_nothing_in_memory(self) -> None:
        kept: list[int] = []

        def emails() -> Iterator[EmailMessage]:
            for number in range(20_000):
                if number == 18_000:  # tracing makes everything several times slower
                    tracemalloc.start()
                if number == 19_500:
                    kept.append(tracemalloc.get_traced_memory()[0])
                    tracemalloc.stop()
                yield EmailMultiAlternatives("s", "b" * 2000, to=ADA)

        assert send_emails(emails()) == 20_000
        # 1,500 messages of 2,000 characters have passed since; one chunk of 500 is in hand.
        assert kept[0] < 2_000_000


class TestAsyncTwins:
    @pytest.mark.parametrize(
        ("sync", "twin"), [(send_email, asend_email), (send_emails, asend_emails)]
    )
    def test_their_signatures_are_the_same(
        self, sync: Callable[..., Any], twin: Callable[..., Any]
    ) -> None:
        assert inspect.signature(sync) == inspect.signature(twin)
        assert inspect.iscoroutinefunction(twin)

    @pytest.mark.django_db
    def test_they_hand_on_every_argument(self, settings: Any) -> None:
        settings.PILLARBOX = {"STREAMS": {"bulk": {}}}
        shared: dict[str, Any] = {
            "stream": "bulk",
            "priority": "low",
            "send_at": NOON,
            "expires_at": NOON + timedelta(days=9999),
            "in_doubt": "hold",
            "tags": ["a"],
            "metadata": {"a": 1},
            "sensitive": True,
        }
        single: dict[str, Any] = {
            "from_email": "from@example.org",
            "html": "<p>Hi",
            "cc": ["c@example.org"],
            "bcc": ["d@example.org"],
            "reply_to": ["r@example.org"],
            "headers": {"X-A": "1"},
            "attachments": [("a.txt", "text", "text/plain")],
        }
        email = EmailMessage("s", "b", to=ADA)
        assert set(shared | single | {"idempotency_key": ""}) == {
            name
            for name, parameter in inspect.signature(send_email).parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY
        }
        send_email("s", "b", ADA, **shared, **single, idempotency_key="1")
        async_to_sync(asend_email)("s", "b", ADA, **shared, **single, idempotency_key="2")
        send_emails([email], **shared)
        assert async_to_sync(asend_emails)([email], **shared) == 1
        rows = list(Message.objects.order_by("pk"))
        ignored = ["id", "message_id", "content", "date", "created_at", "idempotency_key"]
        for sync, twin in [rows[:2], rows[2:]]:
            for field in Message._meta.concrete_fields:
                if field.name not in ignored:
                    assert getattr(sync, field.name) == getattr(twin, field.name), field.name
        assert rows[0].fingerprint
        assert [row.idempotency_key for row in rows] == ["1", "2", None, None]


@pytest.mark.django_db
class TestWhatPeersGetWrong:
    """Each is a failure seen in another package."""

    def test_a_user_s_braces_arrive_untouched(self, sink: Sink) -> None:
        text = "{{ secret }} {% load x %} {# #} %s %(a)s {0} ${HOME} <%= 1 %>"
        send_email(text, text, ADA, html=f"<p>{text}</p>")
        assert testing.deliver() == {"sent": 1}
        parsed = sink.wait_for(1)[0].data.decode()
        assert f"Subject: {text}" in parsed.replace("\r\n ", " ")
        assert parsed.count("{{ secret }} {% load x %} {# #}") >= 2

    def test_of_two_recipients_each_has_its_own_fate(self, sink: Sink) -> None:
        sink.replies["bob@example.org"] = "550 5.1.1 No such user"
        message = send_email("s", "b", ["ada@example.org", "bob@example.org"])
        assert testing.deliver() == {"partly_sent": 1}
        ada, bob = Recipient.objects.filter(message=message).order_by("address")
        assert (ada.state, ada.code) == ("sent", 250)
        assert (bob.state, bob.code, bob.enhanced_code) == ("failed", 550, "5.1.1")
        assert bob.reply == "No such user"
        assert sink.wait_for(1)[0].rcpt_tos == ("ada@example.org",)
        message.refresh_from_db()
        assert message.state == State.PARTLY_SENT

    def test_an_unknown_exception_stops_nothing_but_its_own_message(self) -> None:
        class Unheard(Exception):
            pass

        with testing.ScriptedMailer() as mailer:
            mailer.sent().raises(Unheard("of"))
            sent = [send_email(str(n), "b", ADA) for n in range(3)]
            assert testing.deliver() == {"sent": 2, "retry": 1}
        states = [Message.objects.get(pk=message.pk).state for message in sent]
        assert states == [State.SENT, State.QUEUED, State.SENT]

    def test_a_content_that_cannot_be_read_fails_alone(self) -> None:
        bad = send_email("s", "b", ADA)
        Message.objects.filter(pk=bad.pk).update(content='{"v": 999}')
        send_email("s", "b", ADA)
        assert testing.deliver() == {"failed": 1, "sent": 1}

    def test_the_rotation_of_the_secret_key_loses_nothing(self, settings: Any) -> None:
        data = b"%PDF" * 999
        send_email("s", "b", ADA, attachments=[("a.pdf", data, "application/pdf")])
        settings.SECRET_KEY = "another"
        settings.SECRET_KEY_FALLBACKS = []
        assert testing.deliver() == {"sent": 1}
        assert mail.outbox[0].attachments[0][1] == data

    def test_same_named_attachments_and_mime_parts_all_arrive(self) -> None:
        calendar = MIMEBase("text", "calendar", method="REQUEST")
        calendar.set_payload("BEGIN:VCALENDAR")
        parts = [("a.txt", "one", "text/plain"), ("a.txt", "two", "text/plain")]
        if not compat.MODERN_MESSAGES:  # from 6.0 Django warns of it, and the caller gets to see it
            parts.append(calendar)  # type: ignore[arg-type]
        send_email("s", "b", ADA, attachments=parts)
        testing.deliver()
        assert [item[1] for item in mail.outbox[0].attachments[:2]] == ["one", "two"]
        assert len(mail.outbox[0].attachments) == len(parts)
