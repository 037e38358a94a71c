"""`pillarbox.testing` works in a test's own transaction and goes through the real delivery."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core import mail
from django.core.mail import EmailMessage
from django.db import transaction
from django.test import TestCase

from pillarbox import compat, outbox, send_email, send_emails, testing
from pillarbox.delivery import routes
from pillarbox.delivery.drain import drain
from pillarbox.models import Attempt, Drain, Message, Recipient, State
from pillarbox.testing import ScriptedMailer, deliver, freeze

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class InATestCaseTransaction(TestCase):
    """unittest alone, as a user of Django's runner writes it."""

    def test_what_was_queued_is_delivered_into_mail_outbox(self) -> None:
        send_email("Hello", "Hi Ada", ["ada@example.org"])
        assert deliver() == {"sent": 1}
        assert [email.subject for email in mail.outbox] == ["Hello"]
        assert mail.outbox[0].to == ["ada@example.org"]
        testing.assert_sent(to="ada@example.org", subject="Hello", count=1)

    def test_no_hook_of_a_commit_runs_unless_the_test_captures_it(self) -> None:
        with self.settings(PILLARBOX={"ENGINE": "immediate"}):
            send_email("Not yet", "Hi", ["ada@example.org"])
            assert mail.outbox == []
            with self.captureOnCommitCallbacks(execute=True):
                send_email("Now", "Hi", ["ada@example.org"])
        assert [email.subject for email in mail.outbox] == ["Now"]
        testing.assert_queued(subject="Not yet", count=1)

    def test_a_scripted_mailer_needs_no_pytest(self) -> None:
        mailer = self.enterContext(ScriptedMailer())
        send_email("Hello", "Hi", ["ada@example.org"])
        deliver()
        assert mailer.outbox[0].subject == "Hello"
        assert mail.outbox == []

    def test_a_block_of_the_test_s_own_around_deliver_is_refused(self) -> None:
        with transaction.atomic(), self.assertRaisesMessage(RuntimeError, "durable"):
            deliver()


@pytest.fixture
def mailer() -> Any:
    with ScriptedMailer() as scripted:
        yield scripted


def queue(*recipients: str, subject: str = "Hello", **options: Any) -> Message:
    return send_email(subject, "Hi", list(recipients) or ["ada@example.org"], **options)


def state_of(message: Message) -> str:
    return Message.objects.get(pk=message.pk).state


@pytest.mark.django_db(transaction=True)
def test_it_delivers_what_was_committed_too() -> None:
    queue()
    assert deliver() == {"sent": 1}
    assert deliver() == {}
    assert not Drain.objects.exists()


@pytest.mark.django_db
class TestDeliver:
    def test_everything_due_goes_in_one_call(self) -> None:
        send_emails(EmailMessage(f"No {n}", "Hi", to=["ada@example.org"]) for n in range(250))
        assert deliver() == {"sent": 250}
        assert len(mail.outbox) == 250

    def test_what_is_due_later_stays(self) -> None:
        queue(send_at=timedelta(hours=1))
        assert deliver() == {}
        testing.assert_queued(count=1)

    def test_what_is_past_its_expiry_is_not_sent(self) -> None:
        with freeze() as clock:
            message = queue(expires_at=timedelta(hours=1))
            clock.move(timedelta(hours=2))
            assert deliver() == {"expired": 1}
        assert state_of(message) == State.EXPIRED
        assert mail.outbox == []


if compat.HAS_MAILERS:

    @pytest.mark.django_db
    def test_mailers_that_a_test_writes_itself_are_those_it_gets(
        settings: Any, tmp_path: Path
    ) -> None:
        settings.MAILERS = {
            "default": {
                "BACKEND": "django.core.mail.backends.filebased.EmailBackend",
                "OPTIONS": {"file_path": str(tmp_path)},
            }
        }
        queue()
        assert deliver() == {"sent": 1}
        assert mail.outbox == []
        assert "Subject: Hello" in next(tmp_path.iterdir()).read_text()


@pytest.mark.django_db
class TestScriptedMailer:
    def test_without_a_script_everything_is_accepted(self, mailer: ScriptedMailer) -> None:
        send_email(
            "Hello",
            "Hi",
            ["ada@example.org"],
            bcc=["bob@example.org"],
            from_email="S <s@a.example>",
        )
        assert deliver() == {"sent": 1}
        (talk,) = mailer.conversations
        assert talk.mailer == "default"
        assert talk.sender == "s@a.example"
        assert talk.recipients == talk.accepted == ("ada@example.org", "bob@example.org")
        assert talk.email.subject == "Hello"
        assert b"Subject: Hello\r\n" in talk.data
        assert b"bob@example.org" not in talk.data
        assert mailer.outbox == [talk.email]

    def test_scripts_are_used_up_in_their_order(self, mailer: ScriptedMailer) -> None:
        mailer.sent().refuse(554, "5.6.0 Not this").defer(452)
        first, second, third, fourth = queue(), queue(), queue(), queue()
        assert deliver() == {"sent": 2, "failed": 1, "retry": 1}
        assert state_of(first) == state_of(fourth) == State.SENT
        assert state_of(second) == State.FAILED
        assert state_of(third) == State.QUEUED
        refused = Attempt.objects.get(message=second)
        assert (refused.code, refused.enhanced_code, refused.reply) == (554, "5.6.0", "Not this")
        assert Attempt.objects.get(message=third).code == 452

    def test_one_recipient_is_refused_and_the_other_served(self, mailer: ScriptedMailer) -> None:
        mailer.refuse(550, "5.1.1 No such user", for_="Bob <BOB@example.org>")
        other, message = queue("eve@example.org"), queue("ada@example.org", "bob@example.org")
        assert deliver() == {"sent": 1, "partly_sent": 1}
        assert state_of(other) == State.SENT
        assert state_of(message) == State.PARTLY_SENT
        assert dict(Recipient.objects.filter(message=message).values_list("address", "state")) == {
            "ada@example.org": "sent",
            "bob@example.org": "failed",
        }
        assert mailer.conversations[-1].accepted == ("ada@example.org",)
        testing.assert_sent(to="ada@example.org")
        testing.assert_not_sent(to="bob@example.org")
        testing.assert_failed(to="bob@example.org", count=1)
        testing.assert_failed(to=["bob@example.org"])

    def test_an_address_is_scripted_attempt_by_attempt(self, mailer: ScriptedMailer) -> None:
        mailer.defer(450, for_="bob@example.org").refuse(550, for_="bob@example.org")
        with freeze() as clock:
            message = queue("ada@example.org", "bob@example.org")
            deliver()
            testing.assert_sent(to="ada@example.org", count=1)
            testing.assert_queued(to="bob@example.org", count=1)
            testing.assert_not_queued(to="ada@example.org")
            clock.move(timedelta(minutes=1))
            deliver()
        assert state_of(message) == State.PARTLY_SENT
        assert [talk.recipients for talk in mailer.conversations] == [
            ("ada@example.org", "bob@example.org"),
            ("bob@example.org",),
        ]

    def test_an_international_domain_is_scripted_and_recorded_as_written(
        self, mailer: ScriptedMailer
    ) -> None:
        mailer.refuse(550, for_="bob@bücher.example")
        queue("ada@bücher.example", "bob@bücher.example")
        assert deliver() == {"partly_sent": 1}
        assert mailer.conversations[0].accepted == ("ada@bücher.example",)

    def test_after_a_silent_dot_the_message_is_in_doubt(self, mailer: ScriptedMailer) -> None:
        mailer.time_out_after_dot()
        message = queue(in_doubt="hold")
        assert deliver() == {"in_doubt": 1}
        assert state_of(message) == State.IN_DOUBT
        assert mailer.outbox == []
        assert b"Subject: Hello" in mailer.conversations[0].data
        testing.assert_in_doubt(to="ada@example.org", count=1)

    def test_a_doubt_that_is_to_be_resent_is_resent_once(self, mailer: ScriptedMailer) -> None:
        mailer.time_out_after_dot()
        with freeze() as clock:
            message = queue()
            assert deliver() == {"in_doubt": 1}
            testing.assert_in_doubt(count=1)
            testing.assert_in_doubt(to="ada@example.org")
            testing.assert_queued(to="ada@example.org")
            clock.move(timedelta(minutes=1))
            assert deliver() == {"sent": 1}
        assert state_of(message) == State.SENT
        first, second = mailer.conversations
        assert first.data == second.data, "the same Message-ID and Date"

    def test_a_mailer_that_is_down_charges_no_attempt(self, mailer: ScriptedMailer) -> None:
        mailer.down()
        with freeze() as clock:
            message = queue()
            assert deliver() == {"mailer_down": 1}
            assert deliver() == {}
            assert mailer.conversations == []
            clock.move(timedelta(seconds=31))
            assert deliver() == {"sent": 1}
        message.refresh_from_db()
        assert message.attempts == 1

    def test_an_open_connection_goes_down_before_the_next_message(
        self, mailer: ScriptedMailer
    ) -> None:
        mailer.sent().down()
        queue()
        queue()
        assert deliver() == {"sent": 1, "mailer_down": 1}

    def test_an_exception_of_an_unknown_class_stops_nothing_but_its_own_message(
        self, mailer: ScriptedMailer
    ) -> None:
        class Strange(Exception):
            pass

        mailer.raises(Strange("of another package"))
        first, second = queue(), queue()
        assert deliver() == {"retry": 1, "sent": 1}
        assert state_of(first) == State.QUEUED
        assert state_of(second) == State.SENT
        assert "Strange" in Attempt.objects.get(message=first).reply

    def test_a_421_closes_the_connection_and_the_next_message_gets_another(
        self, mailer: ScriptedMailer
    ) -> None:
        mailer.defer(421, "4.3.2 Closing")
        queue()
        queue()
        assert deliver() == {"retry": 1, "sent": 1}

    @pytest.mark.parametrize(("verb", "code"), [("refuse", 451), ("defer", 550), ("refuse", 600)])
    def test_a_code_of_the_wrong_kind_is_refused(self, verb: str, code: int) -> None:
        with pytest.raises(ValueError, match=str(code)):
            getattr(ScriptedMailer(), verb)(code)

    def test_a_large_message_with_dots_arrives_as_it_is(self, mailer: ScriptedMailer) -> None:
        body = ".\n..\n.dot\n" * 20_000
        send_email("Dots", body, ["ada@example.org"])
        assert deliver() == {"sent": 1}
        received = mailer.conversations[0].data.partition(b"\r\n\r\n")[2]
        assert received.replace(b"\r\n", b"\n").decode() == body

    def test_outside_of_it_the_test_runner_s_outbox_is_back(self) -> None:
        with ScriptedMailer() as outer, ScriptedMailer() as inner:
            queue()
            deliver()
        assert (len(outer.outbox), len(inner.outbox)) == (0, 1)
        assert routes.override is None
        queue()
        deliver()
        assert len(mail.outbox) == 1


@pytest.mark.django_db(transaction=True)
def test_the_workers_threads_follow_the_script_and_the_frozen_clock() -> None:
    with ScriptedMailer() as mailer, freeze() as clock:
        mailer.defer(451)
        queue()
        assert drain() == {"retry": 1}
        clock.move(timedelta(minutes=1))
        assert drain() == {"sent": 1}
    assert len(mailer.outbox) == 1
    queue()
    assert drain() == {"sent": 1}
    assert len(mailer.outbox) == 1, "no connection to the script outlives it"


@pytest.mark.django_db
class TestFreeze:
    def test_time_stands_until_it_is_moved(self) -> None:
        with freeze(NOON) as clock:
            message = queue(send_at=timedelta(days=1))
            assert message.due_at == NOON + timedelta(days=1)
            assert message.date == NOON + timedelta(days=1)
            assert deliver() == {}
            assert clock.move(timedelta(days=1)) == clock.now == NOON + timedelta(days=1)
            assert deliver() == {"sent": 1}
        message.refresh_from_db()
        assert message.created_at == NOON
        assert message.finished_at == NOON + timedelta(days=1)

    def test_the_whole_schedule_of_retries_passes_without_sleeping(self) -> None:
        with ScriptedMailer() as mailer, freeze(NOON) as clock:
            for _ in range(100):
                mailer.defer(451)
            message = queue()
            while state_of(message) == State.QUEUED:
                deliver()
                clock.move(timedelta(hours=3))
        assert state_of(message) == State.FAILED
        message.refresh_from_db()
        assert message.finished_at is not None
        assert timedelta(days=1) < message.finished_at - NOON <= timedelta(days=2, hours=3)

    def test_it_is_taken_back_and_can_be_nested(self) -> None:
        with freeze(NOON) as outer:
            with freeze(NOON + timedelta(days=9)) as inner:
                assert inner.now == NOON + timedelta(days=9)
            assert outer.now == NOON
        assert abs(outer.now - datetime.now(UTC)) < timedelta(minutes=1)
        with pytest.raises(RuntimeError, match="not frozen"):
            outer.move(timedelta(1))

    def test_a_naive_moment_is_refused(self) -> None:
        with pytest.raises(ValueError, match="naive"):
            freeze(datetime(2026, 1, 1))  # noqa: DTZ001


@pytest.mark.django_db
class TestAssertions:
    def test_they_return_the_messages_that_they_found(self) -> None:
        first, second = queue(subject="A"), queue("bob@example.org", subject="B")
        assert testing.assert_queued() == [first, second]
        deliver()
        assert testing.assert_sent(subject="B") == [second]
        assert testing.assert_sent(to=["Bob <BOB@example.org>"], count=1) == [second]
        testing.assert_not_sent(to=["ada@example.org", "bob@example.org"])
        testing.assert_not_queued()

    def test_copies_are_recipients_too(self) -> None:
        send_email("A", "Hi", ["ada@example.org"], cc=["c@example.org"], bcc=["b@example.org"])
        testing.assert_queued(to=["ada@example.org", "c@example.org", "b@example.org"])
        deliver()
        testing.assert_sent(to=["ada@example.org", "c@example.org", "b@example.org"])

    def test_a_stream_can_be_asked_for(self, settings: Any) -> None:
        settings.PILLARBOX = {"STREAMS": {"bulk": {}}}
        queue(stream="bulk")
        testing.assert_queued(stream="bulk", count=1)
        testing.assert_not_queued(stream="default")

    def test_a_failure_shows_what_there_was(self) -> None:
        with ScriptedMailer() as mailer, freeze(NOON):
            mailer.refuse(550, "5.1.1 No such user", for_="bob@example.org")
            queue("ada@example.org", "bob@example.org", subject="Your order")
            deliver()
            queue(subject="Later", send_at=timedelta(hours=1))
            with pytest.raises(AssertionError) as caught:
                testing.assert_sent(to="bob@example.org", subject="Your order", count=2)
        text = str(caught.value)
        assert text.startswith(
            "Expected 2 messages sent to bob@example.org with the subject 'Your order', found 0."
        )
        assert "partly_sent: 'Your order' to ada@example.org [sent: 250 Accepted]" in text
        assert "bob@example.org [failed: 550 No such user]" in text
        assert "queued: 'Later' to ada@example.org (stream 'default', due 2026-03-01 13:00" in text

    def test_a_failure_says_that_there_was_nothing(self) -> None:
        with pytest.raises(AssertionError, match=r"(?s)at least 1 message sent, found 0.*nothing"):
            testing.assert_sent()

    def test_what_should_not_be_there_is_named(self) -> None:
        queue(subject="Too much")
        with pytest.raises(AssertionError, match=r"(?s)no messages queued.*found 1.*Too much"):
            testing.assert_not_queued()

    def test_a_failure_shows_no_more_than_a_person_reads(self) -> None:
        send_emails(EmailMessage(f"No {n}", "Hi", to=["ada@example.org"]) for n in range(25))
        with pytest.raises(AssertionError, match="and 5 more"):
            testing.assert_sent(to="bob@example.org")

    def test_a_sensitive_mail_is_found_after_its_content_is_erased(self) -> None:
        queue("ada@example.org", sensitive=True)
        deliver()
        testing.assert_sent(to="ada@example.org", count=1)

    def test_a_cancelled_message_is_neither_queued_nor_sent(self) -> None:
        outbox.cancel(queue())
        deliver()
        testing.assert_not_sent()
        testing.assert_not_queued()
        with pytest.raises(AssertionError, match="cancelled: 'Hello'"):
            testing.assert_sent()
