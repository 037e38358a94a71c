"""`send_email` and its kin: what a call writes, in which transaction, and what it refuses."""

from __future__ import annotations

import inspect
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core import mail
from django.core.mail import EmailAlternative, EmailMessage, EmailMultiAlternatives
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils.functional import lazystr

import pillarbox
from pillarbox import asend_email, asend_emails, send_email, send_emails, testing
from pillarbox.exceptions import AttachmentTooLarge, InvalidMessage
from pillarbox.models import Attachment, Message, Priority, Recipient, State

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ADA = ["ada@example.org"]


class Team(str, Enum):  # noqa: UP042 - a StrEnum would write itself as its value
    """``str(Team.OPS)`` is "Team.OPS"."""

    OPS = "Ops <ops@example.org>"
    NAME = "X-Team"
    TWO_LINES = "one\ntwo"


@pytest.fixture(autouse=True)
def _no_broker(settings: Any) -> None:
    """A commit here wakes nobody: these tests look at rows and deliver by themselves."""
    settings.PILLARBOX = {"ENGINE": "worker"}


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
            ({"headers": {1: "x"}}, ["headers has the name 1", "ASCII"]),
            ({"headers": {b"X": "x"}}, ["headers has the name b'X'", "ASCII"]),
            ({"headers": {None: "x"}}, ["headers has the name None", "ASCII"]),
            ({"subject": Team.TWO_LINES}, ["subject cannot be sent", "one line"]),
            ({"recipient_list": [Team.TWO_LINES]}, ["recipient_list[0] ('one\\ntwo')"]),
            ({"headers": {"X-A": Team.TWO_LINES}}, ["headers['X-A']", "one-line"]),
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

    @pytest.mark.django_db
    def test_a_header_that_python_cannot_fold_is_named_or_sent(self) -> None:
        """Without a value, and with a name that fills the line; each Python has its own opinion."""
        for length in range(70, 90):
            name = "X-" + "a" * (length - 2)
            try:
                send_email("s", "b", ADA, headers={name: ""})
            except InvalidMessage as error:
                assert f"headers['{name}']" in str(error)  # noqa: PT017
        queued = Message.objects.count()
        assert testing.deliver() == {"sent": queued}
        for email in mail.outbox:
            assert email.message().as_bytes()

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
    @pytest.mark.parametrize("kind", [list, tuple, set, frozenset, iter])
    def test_recipients_come_in_any_iterable(self, kind: Callable[[list[str]], Any]) -> None:
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

    @pytest.mark.parametrize("attachments", [(), [("a.txt", "a", "text/plain")]])
    def test_an_enum_is_its_own_characters_by_every_way(self, attachments: Any) -> None:
        message = send_email(
            Team.OPS,
            "b",
            [Team.OPS],
            from_email=Team.OPS,
            headers={Team.NAME: Team.OPS},
            attachments=attachments,
            tags=[Team.NAME],
            idempotency_key=Team.NAME,
        )
        message.refresh_from_db()
        assert (message.subject, message.from_email) == (Team.OPS.value, Team.OPS.value)
        assert message.first_recipient == "ops@example.org"
        assert message.message_id.endswith("@example.org>")
        assert (message.tags, message.idempotency_key) == (["X-Team"], "X-Team")
        testing.deliver()
        (sent,) = mail.outbox
        assert (sent.subject, sent.from_email, sent.to) == (Team.OPS, Team.OPS, [Team.OPS])
        assert sent.extra_headers["X-Team"] == "Ops <ops@example.org>"

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
    notices = [query for query in queries if "pg_notify" in query["sql"]]
    assert len(queries) - len(notices) == 1


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

    @pytest.mark.parametrize(
        "wrong",
        [
            {"extra_headers": {1: "x"}},
            {"extra_headers": {None: "x"}},
            {"content_subtype": None},
            {"content_subtype": []},
            {"content_subtype": 5},
            {"alternatives": [EmailAlternative("<p>", None)]},  # type: ignore[arg-type]
            {"alternatives": [EmailAlternative("<p>", [])]},  # type: ignore[arg-type]
            {"alternatives": 5},
        ],
        ids=str,
    )
    def test_what_no_field_can_be_is_told_as_django_does_with_its_number(
        self, wrong: dict[str, Any]
    ) -> None:
        emails = [EmailMultiAlternatives("s", "b", to=ADA) for _ in range(2)]
        vars(emails[1]).update(wrong)
        try:
            emails[1].message()
        except (TypeError, AttributeError) as refused:
            with pytest.raises(type(refused)) as caught:
                send_emails(emails)
            assert caught.value.__notes__[-1] == "It is message number 2 of those given."
            assert not Message.objects.exists()
        else:  # Django 5.2 writes whatever subtype it is given
            assert send_emails(emails) == 2

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


def test_a_name_of_the_package_is_found_once() -> None:
    for name in pillarbox.__all__:
        assert getattr(pillarbox, name) is vars(pillarbox)[name]


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
