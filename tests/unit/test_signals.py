"""Every turn of a message is announced, after the commit and in its order."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.dispatch import Signal

from pillarbox import outbox, send_email, signals
from pillarbox.exceptions import InvalidTransition
from pillarbox.models import Message, Recipient, State
from pillarbox.testing import ScriptedMailer, deliver, freeze
from tests.support.transactions import rolled_back
from tests.unit.test_verbs import ADA, VERBS, message_in

SIGNALS = {name: value for name, value in vars(signals).items() if isinstance(value, Signal)}


@pytest.fixture(autouse=True)
def _no_broker(settings: Any) -> None:
    settings.PILLARBOX = {"ENGINE": "worker"}


@pytest.fixture
def heard() -> Iterator[list[tuple[str, int, str]]]:
    """Every signal in its order: its name, the message, the state that it had."""
    calls: list[tuple[str, int, str]] = []
    receivers = []
    for name, signal in SIGNALS.items():

        def receive(message: Message, name: str = name, **_: Any) -> None:
            calls.append((name, message.pk, message.state))

        signal.connect(receive)
        receivers.append((signal, receive))
    yield calls
    for signal, receive in receivers:
        signal.disconnect(receive)


EXPECTED_SIGNALS = [
    ("cancel", State.QUEUED, "message_cancelled", "cancelled"),
    ("hold", State.QUEUED, "message_held", "held"),
    ("release", State.HELD, "message_released", "queued"),
    ("retry", State.FAILED, "message_released", "queued"),
    ("resolve, sent", State.IN_DOUBT, "message_sent", "sent"),
    ("resolve, not sent", State.IN_DOUBT, "message_released", "queued"),
]


@pytest.mark.django_db(transaction=True)
class TestSignals:
    @pytest.mark.parametrize(("name", "state", "signal", "seen"), EXPECTED_SIGNALS)
    def test_a_verb_announces_itself_once_it_has_committed(
        self, heard: list[tuple[str, int, str]], name: str, state: State, signal: str, seen: str
    ) -> None:
        message = message_in(state)
        heard.clear()
        with transaction.atomic():
            VERBS[name][0](message)
            assert heard == []
        assert heard == [(signal, message.pk, seen)]

    def test_a_doubt_resolved_as_sent_with_a_recipient_left_is_announced_as_released(
        self, heard: list[tuple[str, int, str]]
    ) -> None:
        message = message_in(State.IN_DOUBT)
        Recipient.objects.create(
            message=message, address="ada@example.org", state="pending", updated_at=message.date
        )
        heard.clear()
        outbox.resolve(message, sent=True)
        assert heard == [("message_released", message.pk, "queued")]

    @pytest.mark.parametrize("name", VERBS)
    def test_a_verb_that_is_rolled_back_says_and_does_nothing(
        self, heard: list[tuple[str, int, str]], name: str
    ) -> None:
        verb, allowed, _ = VERBS[name]
        message = message_in(min(allowed))
        heard.clear()
        with rolled_back():
            verb(message)
        assert heard == []
        before = message.state
        message.refresh_from_db()
        assert message.state == before

    def test_a_refusal_is_silent(self, heard: list[tuple[str, int, str]]) -> None:
        message = message_in(State.SENT)
        heard.clear()
        with pytest.raises(InvalidTransition):
            outbox.cancel(message)
        assert heard == []

    def test_a_message_s_whole_life_is_told_in_its_order(
        self, heard: list[tuple[str, int, str]]
    ) -> None:
        with ScriptedMailer() as mailer, freeze() as clock:
            mailer.defer(451).time_out_after_dot().refuse(554).refuse(554).sent()
            message = send_email("s", "b", [ADA])
            for _ in range(3):
                deliver()
                clock.move(timedelta(minutes=1))
            outbox.resolve(message, sent=False)
            deliver()
            outbox.retry(message)
            deliver()
            late = send_email("s", "b", [ADA], expires_at=timedelta(minutes=1))
            clock.move(timedelta(minutes=2))
            deliver()
        assert heard == [
            ("message_queued", message.pk, "queued"),
            ("message_retried", message.pk, "queued"),
            ("message_in_doubt", message.pk, "queued"),
            ("message_in_doubt", message.pk, "in_doubt"),
            ("message_released", message.pk, "queued"),
            ("message_failed", message.pk, "failed"),
            ("message_released", message.pk, "queued"),
            ("message_sent", message.pk, "sent"),
            ("message_queued", late.pk, "queued"),
            ("message_expired", late.pk, "expired"),
        ]
