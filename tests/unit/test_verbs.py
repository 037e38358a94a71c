"""`pillarbox.outbox`: each verb from each state, and what it leaves behind."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connections

from pillarbox import outbox, send_email, testing
from pillarbox.delivery import claims, recovery, ways
from pillarbox.delivery.drain import drain
from pillarbox.exceptions import InvalidTransition
from pillarbox.models import (
    FINISHED,
    TRANSITIONS,
    Attempt,
    Drain,
    Message,
    Recipient,
    RecipientState,
    State,
    database_now,
)
from pillarbox.testing import ScriptedMailer, deliver, freeze
from tests.support.transactions import rolled_back

ADA, BOB = "ada@example.org", "bob@example.org"
Verb = Callable[[Message], Message]


def resolve_sent(message: Message) -> Message:
    return outbox.resolve(message, sent=True)


def resolve_unsent(message: Message) -> Message:
    return outbox.resolve(message, sent=False)


VERBS: dict[str, tuple[Verb, set[State], State]] = {
    "cancel": (outbox.cancel, {State.QUEUED, State.SENDING, State.HELD}, State.CANCELLED),
    "hold": (outbox.hold, {State.QUEUED, State.SENDING, State.IN_DOUBT}, State.HELD),
    "release": (outbox.release, {State.HELD}, State.QUEUED),
    "retry": (outbox.retry, {State.FAILED}, State.QUEUED),
    "resolve, sent": (resolve_sent, {State.IN_DOUBT}, State.SENT),
    "resolve, not sent": (resolve_unsent, {State.IN_DOUBT}, State.QUEUED),
}


@pytest.fixture(autouse=True)
def _no_broker(settings: Any) -> None:
    settings.PILLARBOX = {"ENGINE": "worker"}


def message_in(state: State, *, begun: bool = False, **options: Any) -> Message:
    """Queue a message and put its row into a state as the parts that write it would."""
    message = send_email("s", "b", [ADA], **options)
    values: dict[str, Any] = {"state": state}
    if state is State.SENDING:
        values["drain"] = uuid.uuid4()
    if begun or state is State.IN_DOUBT:
        values |= {"drain": uuid.uuid4(), "begun_at": database_now("default")}
    if state in FINISHED:
        values["finished_at"] = database_now("default")
    Message.objects.filter(pk=message.pk).update(**values)
    message.refresh_from_db()
    return message


@pytest.mark.django_db
class TestEveryVerbFromEveryState:
    @pytest.mark.parametrize("state", State)
    @pytest.mark.parametrize("name", VERBS)
    def test_it_turns_or_refuses(self, name: str, state: State) -> None:
        verb, allowed, target = VERBS[name]
        message = message_in(state)
        if state not in allowed:
            with pytest.raises(InvalidTransition, match=rf"message {message.pk}: it is {state}"):
                verb(message)
            message.refresh_from_db()
            assert message.state == state
            return
        turned = verb(message)
        assert turned.state == target
        row = Message.objects.get(pk=message.pk)
        assert row.state == target
        assert (row.finished_at is not None) is (target in FINISHED)

    @pytest.mark.parametrize("name", ["resolve, sent", "resolve, not sent"])
    def test_what_was_in_doubt_when_it_was_held_can_be_resolved(self, name: str) -> None:
        verb, _, target = VERBS[name]
        assert target in TRANSITIONS[State.HELD]
        assert verb(message_in(State.HELD, begun=True)).state == target

    @pytest.mark.parametrize("name", VERBS)
    def test_no_verb_goes_beyond_the_table_of_transitions(self, name: str) -> None:
        _, allowed, target = VERBS[name]
        for state in allowed:
            assert target in TRANSITIONS[state]

    @pytest.mark.parametrize("name", ["cancel", "hold"])
    def test_what_has_begun_is_out_of_reach(self, name: str) -> None:
        message = message_in(State.SENDING, begun=True)
        with pytest.raises(InvalidTransition, match="its conversation has begun"):
            VERBS[name][0](message)

    @pytest.mark.parametrize("name", VERBS)
    def test_a_row_that_is_gone_is_told(self, name: str) -> None:
        message = message_in(State.QUEUED)
        Message.objects.all().delete()
        with pytest.raises(InvalidTransition, match="its row is gone"):
            VERBS[name][0](message)

    def test_the_rows_state_counts_and_not_the_objects(self) -> None:
        message = message_in(State.QUEUED)
        outbox.cancel(Message.objects.get(pk=message.pk))
        assert message.state == State.QUEUED
        with pytest.raises(InvalidTransition, match="it is cancelled"):
            outbox.cancel(message)


@pytest.mark.django_db
class TestCancel:
    def test_a_cancelled_message_is_never_sent(self) -> None:
        with ScriptedMailer() as mailer, freeze() as clock:
            outbox.cancel(message_in(State.QUEUED))
            assert deliver() == {}
            clock.move(timedelta(days=30))
            assert deliver() == {}
        assert mailer.conversations == []

    def test_a_claimed_message_is_taken_from_its_drain(self) -> None:
        message = send_email("s", "b", [ADA])
        owner = uuid.uuid4()
        now = database_now("default")
        Drain.objects.create(
            id=owner,
            host="here",
            pid=1,
            engine="worker",
            started_at=now,
            lease_until=now + timedelta(minutes=1),
            stay_until=now,
        )
        claimed = claims.claim(owner, "default", ways.ways(["default"]), 10)
        assert claimed.messages == [message]
        cancelled = outbox.cancel(message)
        assert (cancelled.state, cancelled.drain) == (State.CANCELLED, None)
        assert claims.give_back(owner, "default", claimed.messages) == 0
        message.refresh_from_db()
        assert message.state == State.CANCELLED

    def test_a_sensitive_message_is_erased_at_once(self) -> None:
        cancelled = outbox.cancel(message_in(State.QUEUED, sensitive=True))
        assert (cancelled.content, cancelled.subject) == ("", "")
        assert Message.objects.get().content == ""


@pytest.mark.django_db(transaction=True)
class TestAgainstAWorker:
    """A verb that commits while a drain is at work."""

    def test_a_message_cancelled_between_claim_and_begin_is_not_sent(self) -> None:
        second = threading.Event()

        class Slow(ScriptedMailer):
            def next_script(self, recipients: Any) -> Any:
                # The first conversation is under way: the second message is claimed by now.
                if not second.is_set():
                    cancel_in_thread(messages[1])
                    second.set()
                return super().next_script(recipients)

        with Slow() as mailer:
            messages = [send_email(str(n), "b", [ADA]) for n in range(2)]
            deliver()
        assert [talk.email.subject for talk in mailer.conversations] == ["0"]
        assert Message.objects.get(pk=messages[1].pk).state == State.CANCELLED

    def test_a_hold_that_is_rolled_back_leaves_the_message_to_the_worker(self) -> None:
        message = send_email("s", "b", [ADA])
        with rolled_back():
            outbox.hold(message)
        assert drain() == {"sent": 1}


def cancel_in_thread(message: Message) -> None:
    def run() -> None:
        try:
            outbox.cancel(message)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


@pytest.mark.django_db
class TestHoldAndRelease:
    def test_a_held_message_waits_whatever_its_age(self) -> None:
        with freeze() as clock:
            message = outbox.hold(message_in(State.QUEUED))
            clock.move(timedelta(days=400))
            assert deliver() == {}
            outbox.release(message)
            assert deliver() == {"sent": 1}

    def test_a_released_message_is_due_now_and_counts_anew(self) -> None:
        with ScriptedMailer() as mailer, freeze() as clock:
            mailer.defer(451).defer(451).defer(451)
            message = send_email("s", "b", [ADA])
            deliver()
            clock.move(timedelta(days=3))
            released = outbox.release(outbox.hold(message))
            assert released.due_at == released.retry_since == clock.now
            assert deliver() == {"retry": 1}, "retry_for counts from the release"

    def test_what_some_recipients_already_got_they_do_not_get_again(self) -> None:
        with ScriptedMailer() as mailer, freeze():
            mailer.defer(451, for_=BOB)
            message = send_email("s", "b", [ADA, BOB])
            deliver()
            outbox.release(outbox.hold(message))
            assert deliver() == {"sent": 1}
        assert [talk.recipients for talk in mailer.conversations] == [(ADA, BOB), (BOB,)]

    def test_a_held_doubt_can_still_be_resolved(self) -> None:
        with ScriptedMailer() as mailer:
            mailer.time_out_after_dot()
            message = send_email("s", "b", [ADA], in_doubt="hold")
            deliver()
            outbox.hold(message)
            assert outbox.resolve(message, sent=True).state == State.SENT
            assert deliver() == {}
        assert len(mailer.conversations) == 1

    def test_what_was_held_before_it_began_is_no_doubt(self) -> None:
        held = outbox.hold(message_in(State.SENDING))
        assert (held.drain, held.begun_at) == (None, None)
        with pytest.raises(InvalidTransition, match="it is held"):
            outbox.resolve(held, sent=True)

    def test_a_doubt_can_be_held_and_released_for_another_attempt(self) -> None:
        with ScriptedMailer() as mailer:
            mailer.time_out_after_dot()
            message = send_email("s", "b", [ADA], in_doubt="hold")
            deliver()
            held = outbox.hold(message)
            assert deliver() == {}
            outbox.release(held)
            assert deliver() == {"sent": 1}
        assert Recipient.objects.get().state == RecipientState.SENT


@pytest.mark.django_db
class TestRetry:
    def test_it_serves_only_who_did_not_get_it(self) -> None:
        with ScriptedMailer() as mailer, freeze() as clock:
            mailer.refuse(550, for_=ADA).refuse(554, for_=BOB)
            message = send_email("s", "b", [ADA, BOB])
            assert deliver() == {"failed": 1}
            clock.move(timedelta(days=3))
            again = outbox.retry(message)
            assert again.finished_at is None
            assert again.due_at == again.retry_since == clock.now
            assert set(Recipient.objects.values_list("state", flat=True)) == {"pending"}
            mailer.refuse(550, for_=BOB)
            assert deliver() == {"partly_sent": 1}
        assert [talk.recipients for talk in mailer.conversations] == [(ADA, BOB), (ADA, BOB)]
        testing.assert_sent(to=ADA, count=1)
        testing.assert_failed(to=BOB, count=1)

    def test_whom_an_earlier_attempt_served_is_left_out(self) -> None:
        message = message_in(State.FAILED)
        now = datetime.now(UTC)
        email_to = send_email("s", "b", [ADA, BOB])
        Message.objects.filter(pk=email_to.pk).update(
            state=State.FAILED, finished_at=now, attempts=1
        )
        for address, state in [(ADA, "sent"), (BOB, "failed")]:
            Recipient.objects.create(message=email_to, address=address, state=state, updated_at=now)
        outbox.retry(email_to)
        with ScriptedMailer() as mailer:
            assert deliver() == {"sent": 1}
        assert [talk.recipients for talk in mailer.conversations] == [(BOB,)]
        email_to.refresh_from_db()
        assert email_to.state == State.SENT
        message.refresh_from_db()
        assert message.state == State.FAILED

    def test_it_keeps_message_id_and_date(self) -> None:
        with ScriptedMailer() as mailer:
            mailer.refuse(554)
            message = send_email("s", "b", [ADA])
            deliver()
            outbox.retry(message)
            deliver()
        first, second = mailer.conversations
        assert first.data == second.data

    def test_it_is_refused_once_the_content_is_erased(self) -> None:
        with ScriptedMailer() as mailer:
            mailer.refuse(554)
            message = send_email("s", "b", [ADA], sensitive=True)
            deliver()
        with pytest.raises(InvalidTransition, match="its content is erased"):
            outbox.retry(message)
        message.refresh_from_db()
        assert message.state == State.FAILED


@pytest.mark.django_db
class TestResolve:
    @pytest.fixture
    def doubtful(self) -> Iterator[Message]:
        with ScriptedMailer() as mailer:
            mailer.time_out_after_dot()
            message = send_email("s", "b", [ADA], in_doubt="hold")
            deliver()
            yield message

    def test_it_was_sent(self, doubtful: Message) -> None:
        resolved = outbox.resolve(doubtful, sent=True)
        assert resolved.state == State.SENT
        assert resolved.finished_at is not None
        assert Recipient.objects.get().state == RecipientState.SENT
        assert deliver() == {}
        *_, word = Attempt.objects.filter(message=doubtful)
        assert word.result == Attempt.Result.RESOLVED
        assert "by a person" in word.reply

    def test_it_was_not_sent_and_goes_again(self, doubtful: Message) -> None:
        resolved = outbox.resolve(doubtful, sent=False)
        assert (resolved.state, resolved.resends, resolved.drain) == (State.QUEUED, 0, None)
        assert Recipient.objects.get().state == RecipientState.PENDING
        assert deliver() == {"sent": 1}
        results = list(Attempt.objects.filter(message=doubtful).values_list("result", flat=True))
        assert results == ["in_doubt", "resolved", "sent"]

    def test_a_recipient_refused_before_the_doubt_stays_refused(self) -> None:
        with ScriptedMailer() as mailer:
            mailer.refuse(550, for_=BOB).time_out_after_dot()
            message = send_email("s", "b", [ADA, BOB], in_doubt="hold")
            assert deliver() == {"in_doubt": 1}
            resolved = outbox.resolve(message, sent=True)
        assert dict(Recipient.objects.values_list("address", "state")) == {
            ADA: "sent",
            BOB: "failed",
        }
        assert resolved.state == State.PARTLY_SENT

    def test_whom_the_server_had_refused_for_now_gets_it_alone_after_the_word_sent(self) -> None:
        with ScriptedMailer() as mailer, freeze():
            mailer.defer(451, for_=BOB).time_out_after_dot()
            message = send_email("s", "b", [ADA, BOB], in_doubt="hold")
            assert deliver() == {"in_doubt": 1}
            resolved = outbox.resolve(message, sent=True)
            assert (resolved.state, resolved.finished_at) == (State.QUEUED, None)
            assert dict(Recipient.objects.values_list("address", "state")) == {
                ADA: "sent",
                BOB: "pending",
            }
            assert deliver() == {"sent": 1}
        assert [talk.recipients for talk in mailer.conversations] == [(ADA, BOB), (BOB,)]
        assert Message.objects.get().state == State.SENT

    def test_whom_a_dead_worker_was_trying_again_is_in_doubt_too(self) -> None:
        with ScriptedMailer() as mailer, freeze():
            mailer.defer(451, for_=BOB)
            message = send_email("s", "b", [ADA, BOB], in_doubt="hold")
            deliver()
        dead = {"state": State.SENDING, "drain": uuid.uuid4(), "begun_at": database_now("default")}
        Message.objects.update(**dead)
        recovery.recover("default")
        assert Recipient.objects.get(address=BOB).state == RecipientState.IN_DOUBT
        assert outbox.resolve(message, sent=True).state == State.SENT

    def test_another_attempt_leaves_out_who_was_refused_before_the_doubt(self) -> None:
        with ScriptedMailer() as mailer:
            mailer.refuse(550, for_=BOB).time_out_after_dot()
            message = send_email("s", "b", [ADA, BOB], in_doubt="hold")
            deliver()
            outbox.resolve(message, sent=False)
            assert deliver() == {"sent": 1}
        assert [talk.recipients for talk in mailer.conversations] == [(ADA, BOB), (ADA,)]
        message.refresh_from_db()
        assert message.state == State.PARTLY_SENT
