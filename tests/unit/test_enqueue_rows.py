"""How rows are written: the same row by every way, by few statements, in the caller's hands."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.db import DatabaseError, connection, connections, transaction
from django.db.models.signals import post_init, post_save, pre_save
from django.test.utils import CaptureQueriesContext
from django.utils.functional import lazy

from pillarbox import send_email, send_emails, signals, testing
from pillarbox.attachments import BlobWriter
from pillarbox.exceptions import InvalidMessage
from pillarbox.models import Attachment, Message, clock
from pillarbox.outbox import copying, enqueue, rows, statements
from pillarbox.outbox.drafts import Draft, draft, terms_of
from pillarbox.outbox.options import Options
from tests.settings import DATABASE

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ADA = ["Ada <ada@example.org>"]
TRICKY = "\\N \\. \\\\ \t tab\r\nnext\n \\t 'quoted' \"twice\" %s %% é 😀 \x7f"
BULK: dict[str, Any] = {
    "stream": "bulk",
    "priority": "high",
    "send_at": NOON + timedelta(days=1, microseconds=5),
    "expires_at": NOON + timedelta(days=2),
    "in_doubt": "hold",
    "tags": [TRICKY, "", "\\N"],
    "metadata": {"text": TRICKY, "deep": [{"n": 1.5, "none": None, "yes": True}]},
    "sensitive": True,
}
PLAIN: dict[str, Any] = {}
VARIANTS = {"postgresql": [{}, {"pool": True}, {"server_side_binding": True}]}.get(DATABASE, [{}])


@pytest.fixture(autouse=True)
def _no_broker(settings: Any) -> None:
    settings.PILLARBOX = {"ENGINE": "worker", "STREAMS": {"bulk": {}}}


@pytest.fixture
def listen() -> Iterator[Callable[..., None]]:
    """Connect receivers of Django's signals until the test's end."""
    connected: list[tuple[Any, Any]] = []

    def connect(signal: Any, receiver: Any) -> None:
        signal.connect(receiver, sender=Message)
        connected.append((signal, receiver))

    yield connect
    for signal, receiver in connected:
        signal.disconnect(receiver, sender=Message)


def _email(subject: str = "Tea \\ 'time' %s", **given: Any) -> EmailMultiAlternatives:
    headers = {"Message-ID": "<one@example.org>", "X-Tricky": "\\N"}
    sender = '"Sh\\\\op" <shop@example.org>'  # one backslash, quoted
    email = EmailMultiAlternatives(subject, TRICKY, sender, to=ADA, headers=headers, **given)
    email.attach_alternative(f"<p>{TRICKY}", "text/html")
    return email


def _row(options: dict[str, Any], write: Callable[[], object]) -> dict[str, Any]:
    """Return what is in the row that ``write`` writes, but its key."""
    with testing.freeze(NOON):
        write()
    (row,) = Message.objects.order_by("-pk").values()[:1]
    return {name: value for name, value in row.items() if name != "id"}


@pytest.mark.django_db
class TestEveryWay:
    @pytest.mark.parametrize("options", [PLAIN, BULK], ids=["plain", "all"])
    def test_writes_the_same_row(
        self,
        options: dict[str, Any],
        listen: Callable[..., None],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        singly = _row(options, lambda: enqueue(_email(), Options(**options)))
        assert singly["created_at"] == NOON
        assert singly["due_at"] == singly["retry_since"] == options.get("send_at", NOON)
        assert singly["tags"] == options.get("tags", [])
        assert singly["metadata"] == options.get("metadata", {})

        assert _row(options, lambda: send_emails([_email()], **options)) == singly
        monkeypatch.setattr(copying, "can_copy", lambda *_: False)  # as with psycopg 2
        assert _row(options, lambda: send_emails([_email()], **options)) == singly
        listen(post_save, lambda **_: None)
        assert _row(options, lambda: enqueue(_email(), Options(**options))) == singly

    @pytest.mark.parametrize("options", [PLAIN, BULK], ids=["plain", "all"])
    def test_returns_what_a_query_would(
        self, options: dict[str, Any], listen: Callable[..., None]
    ) -> None:
        returned = [send_email("s", "b", ADA, **options)]
        listen(post_init, lambda **_: None)
        returned.append(send_email("s", "b", ADA, **options))
        for message in returned:
            fresh = Message.objects.get(pk=message.pk)
            for field in Message._meta.concrete_fields:
                assert getattr(message, field.attname) == getattr(fresh, field.attname), field
            assert (message._state.adding, message._state.db) == (False, "default")
            assert copy.copy(message) == fresh
            message.save(update_fields=["tags"])

    def test_takes_the_moment_from_the_database(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = clock.database_now("default") - timedelta(
            milliseconds=1
        )  # SQLite's clock has no more
        monkeypatch.setattr("pillarbox.outbox.drafts.host_now", lambda: NOON)  # a host that is slow
        send_emails([_email()])
        message = send_email("s", "b", ADA)
        after = clock.database_now("default") + timedelta(milliseconds=1)
        for row in [message, *Message.objects.all()]:
            assert row.created_at == row.due_at == row.retry_since
            assert before < row.created_at < after


@pytest.mark.django_db
class TestMany:
    def test_a_hundred_are_one_statement_and_at_most_a_look_at_the_clock(self) -> None:
        with CaptureQueriesContext(connection) as queries:
            assert send_emails(_email(str(n)) for n in range(40)) == 40
        verbs = [query["sql"].split()[0] for query in queries]
        by_copy = ["SAVEPOINT", "SELECT", "COPY", "RELEASE"]
        by_insert = ["SAVEPOINT", "INSERT", "RELEASE"]
        assert verbs == (by_copy if connection.vendor == "postgresql" else by_insert)

    def test_keys_go_with_their_messages(self, listen: Callable[..., None], settings: Any) -> None:
        """Attachments are linked, and messages announced, under the right key."""
        seen: dict[int, str] = {}
        listen(
            signals.message_queued, lambda message, **_: seen.update({message.pk: message.subject})
        )
        emails = [_email(f"No {n}") for n in range(120)]
        for n, email in enumerate(emails[::3]):
            email.attach(f"{n}.bin", f"{n}".encode(), "application/octet-stream")
        with pytest.MonkeyPatch.context() as patch, transaction.atomic():
            patch.setattr(transaction, "on_commit", lambda hook, **_: hook())
            assert send_emails(emails) == 120
        stored = Message.objects.order_by("pk")
        assert seen == dict(stored.values_list("pk", "subject"))
        assert set(seen.values()) == {email.subject for email in emails}
        for n, message in enumerate(stored.filter(attachments__isnull=False)):
            assert message.subject == f"No {3 * n}"
            assert bytes(Attachment.objects.get(messages=message).data or b"") == f"{n}".encode()

    def test_statements_are_bounded_by_bytes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(copying, "can_copy", lambda *_: False)
        monkeypatch.setattr(rows, "_PACKET_CHARS", 10_000)
        emails = [EmailMessage(str(n), "x" * size, to=ADA) for n, size in enumerate([4000] * 7)]
        emails.insert(3, EmailMessage("large", "x" * 20_000, to=ADA))
        with CaptureQueriesContext(connection) as queries:
            send_emails(emails)
        inserts = [query for query in queries if query["sql"].startswith("INSERT")]
        assert len(inserts) == 5  # 2, 1, the large one, 2, 2
        subjects = Message.objects.order_by("pk").values_list("subject", flat=True)
        assert list(subjects) == ["0", "1", "2", "large", "3", "4", "5", "6"]

    def test_what_makes_a_query_of_its_own_may_do_so(self) -> None:
        def asking() -> str:
            return f"{Message.objects.count()} messages"

        def letters() -> Iterator[EmailMessage]:
            for n in range(3):
                assert Message.objects.count() == 0
                yield EmailMessage(lazy(asking, str)(), "b", to=ADA)
                yield EmailMessage(str(n), "b", to=ADA)

        assert send_emails(letters()) == 6
        assert Message.objects.filter(subject="3 messages").count() == 3  # plain text goes first

    def test_a_fault_in_the_middle_leaves_nothing_and_a_connection_that_works(self) -> None:
        def drafts() -> Iterator[Any]:
            with testing.freeze(NOON):
                for n in range(3):
                    yield _draft(f"No {n}")
            raise InvalidMessage("the fourth")

        with pytest.raises(InvalidMessage, match="the fourth"), transaction.atomic():
            rows.insert_many(drafts(), 4, "default", returning=False)
        assert Message.objects.count() == 0
        assert send_emails([_email()]) == 1

    def test_what_has_expired_is_refused_by_its_number(self) -> None:
        late = _email()
        late.pillarbox = {"expires_at": timedelta(-1)}  # type: ignore[attr-defined]
        with pytest.raises(InvalidMessage, match="expires_at") as caught:
            send_emails([_email(), late])
        assert caught.value.__notes__ == ["It is message number 2 of those given."]

    def test_the_connection_s_wrappers_see_the_statement_and_may_refuse_it(self) -> None:
        seen: list[str] = []

        def refuse(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            seen.append(sql.split()[0])
            if sql.startswith(("COPY", "INSERT")):
                raise DatabaseError("refused")
            return execute(sql, params, many, context)

        with connection.execute_wrapper(refuse), suppress(DatabaseError), transaction.atomic():
            send_emails([_email()])
        assert {"COPY", "INSERT"} & set(seen)
        assert Message.objects.count() == 0


def _draft(subject: str) -> Draft:
    return draft(_email(subject), terms_of(Options()), BlobWriter("default"))


@pytest.mark.django_db
class TestDatabasesThatReturnLess:
    @pytest.fixture(autouse=True)
    def _as_mysql(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(statements, "_kept", {})
        monkeypatch.setattr(copying, "can_copy", lambda *_: False)
        for name in ("can_return_columns_from_insert", "can_return_rows_from_bulk_insert"):
            monkeypatch.setattr(type(connection.features), name, False)
        if connection.vendor == "postgresql":  # whose driver cannot tell

            def newest(cursor: Any, *_: str) -> int:
                cursor.execute("SELECT lastval()")
                return int(cursor.fetchone()[0])

            monkeypatch.setattr(connection.ops, "last_insert_id", newest)

    def test_a_message_has_its_key_and_the_host_s_time(self) -> None:
        message = send_email("s", "b", ADA)
        fresh = Message.objects.get(subject="s")
        assert message.pk == fresh.pk
        assert abs(message.created_at - fresh.created_at) < timedelta(minutes=1)

    def test_a_mailing_with_attachments_is_written_one_by_one(self) -> None:
        emails = [_email("1"), _email("2")]
        emails[1].attach("a.txt", b"a", "text/plain")
        assert send_emails(emails) == 2
        assert Message.objects.get(attachments__isnull=False).subject == "2"


@pytest.mark.django_db
class TestSignalsOfDjango:
    def test_a_receiver_of_pre_save_may_change_the_row(self, listen: Callable[..., None]) -> None:
        def tag(instance: Message, **_: Any) -> None:
            instance.tags = [*instance.tags, "seen"]

        listen(pre_save, tag)
        message = send_email("s", "b", ADA, tags=["own"], send_at=NOON)
        assert message.tags == ["own", "seen"]
        assert Message.objects.get().tags == ["own", "seen"]
        assert message.due_at == message.retry_since == NOON
        assert send_email("s", "b", ADA).created_at.tzinfo is not None

    def test_a_mailing_sends_none(self, listen: Callable[..., None]) -> None:
        seen: list[object] = []
        listen(post_save, lambda **given: seen.append(given))
        send_emails([_email()])
        assert seen == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_every_kind_of_connection_takes_both(options: dict[str, Any]) -> None:
    other = connection.copy(alias="another")
    other.settings_dict = {**connection.settings_dict}
    other.settings_dict["OPTIONS"] = {**connection.settings_dict["OPTIONS"], **options}
    connections["another"] = other
    try:
        message = rows.insert(_draft("single"), "another")
        with transaction.atomic(using="another"):
            born = rows.insert_many(iter([_draft("a"), _draft("b")]), 2, "another", returning=True)
    finally:
        other.close()
        if hasattr(other, "close_pool"):
            other.close_pool()
        del connections["another"]
    stored = Message.objects.order_by("pk").values_list("pk", "subject")
    assert list(stored) == [(message.pk, "single"), (born[0].pk, "a"), (born[1].pk, "b")]
