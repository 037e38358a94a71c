"""Whatever two workers, a person and a server do, in any order, no mail is lost and none doubled.

A random walk over the real claims, leases, ledger and verbs; what must hold after each step is in
`tests.support.delivery_model`. PILLARBOX_TORTURE=1 walks for longer, and elsewhere each time.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pillarbox.delivery import recovery
from pillarbox.models import State
from tests.support.delivery_model import ANSWERS, USING, VERBS, Desk, World

MOST_MESSAGES = 3
IS_TORTURE = os.environ.get("PILLARBOX_TORTURE") == "1"

any_index = st.integers(0, 2)
# A message that is cancelled at once is of no interest: the other verbs come more often.
verbs = st.sampled_from(
    [*((verb,) for verb in sorted(VERBS)), *2 * [("hold", "release"), ("hold",)]]
)
policies = st.sampled_from(["hold", "resend"])
lifetimes = st.sampled_from([None, None, None, timedelta(seconds=20), timedelta(minutes=2)])
TROUBLES = ["gives back", "renews", "leaves", "hangs", "is killed"]
WAITS = [timedelta(seconds=1), timedelta(seconds=16), timedelta(seconds=31), timedelta(minutes=3)]


class Delivery(RuleBasedStateMachine):
    """The rules: each is one thing that may happen next."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    def teardown(self) -> None:
        """In the end all is left to one good worker."""
        try:
            if not self.world.has_failed:
                self.world.settle()
        finally:
            self.world.close()

    def desk(self, index: int) -> Desk:
        return self.world.desks[index % len(self.world.desks)]

    def talking(self, index: int) -> Desk | None:
        found = [desk for desk in self.world.desks if desk.begun]
        return found[index % len(found)] if found else None

    @initialize(policy=policies)
    def start(self, policy: str) -> None:
        """There is one message at least."""
        self.send(policy, 2, None)

    @precondition(lambda self: len(self.world.unfinished) < MOST_MESSAGES)
    @rule(policy=policies, recipients=st.integers(1, 2), expires_in=lifetimes)
    def send(self, policy: Any, recipients: int, expires_in: timedelta | None) -> None:
        with self.world.step():
            self.world.send(policy, recipients, expires_in)

    @precondition(lambda self: State.QUEUED in self.world.states.values())
    @rule(slot=st.integers(0, 1), limit=st.integers(1, 3))
    def claim(self, slot: int, limit: int) -> None:
        with self.world.step():
            self.desk(slot).claim(limit)

    @rule(index=st.integers(0, 1), count=st.integers(0, 2), answer=st.sampled_from(sorted(ANSWERS)))
    def go_on(self, index: int, count: int, answer: str) -> None:
        """A worker does what comes next: it records, hears, begins, claims, or waits."""
        desk = self.desk(index)
        with self.world.step():
            if desk.answered:
                desk.commit(count)
            elif desk.begun:
                self.world.converse(desk, count, ANSWERS[answer])
            elif desk.claimed:
                desk.commit(1 + count)
            elif desk.is_lost:
                self.world.kill(index)
            elif not desk.claim(1 + count):
                self.world.wait(timedelta(seconds=31), self.world.desks[:2])

    @precondition(lambda self: any(desk.claimed for desk in self.world.desks))
    @rule(index=any_index, count=st.integers(1, 2))
    def begin(self, index: int, count: int) -> None:
        """A worker with several connections begins more while others talk."""
        able = [desk for desk in self.world.desks if desk.claimed]
        with self.world.step():
            able[index % len(able)].commit(count)

    @precondition(lambda self: self.talking(0))
    @rule(index=any_index, which=any_index)
    def break_off(self, index: int, which: int) -> None:
        desk = self.talking(index)
        assert desk is not None
        with self.world.step():
            self.world.break_off(desk, which)
            desk.commit(0)

    @rule(slot=st.integers(0, 1), what=st.sampled_from(TROUBLES))
    def trouble(self, slot: int, what: str) -> None:
        """A worker gives back, renews its lease, ends, hangs and is replaced, or is killed."""
        desk = self.desk(slot)
        with self.world.step():
            match what:
                case "gives back":
                    desk.give_back()
                case "renews":
                    desk.renew()
                case "leaves":
                    desk.lease.drop()
                case "hangs":
                    self.world.replace(slot)
                case "is killed":
                    self.world.kill(slot)

    @rule(wait=st.sampled_from(WAITS), alive=st.sets(st.integers(0, 1)))
    def wait(self, wait: timedelta, alive: set[int]) -> None:
        """Time passes; the workers that live renew their leases, the others' run out."""
        with self.world.step():
            self.world.wait(wait, [self.desk(slot) for slot in sorted(alive)])

    @precondition(lambda self: State.SENDING in self.world.states.values())
    @rule(slot=st.integers(0, 1))
    def is_thought_dead(self, slot: int) -> None:
        """A worker hangs until all that it held is the other's; then it may go on."""
        with self.world.step():
            self.world.replace(slot)
        with self.world.step():
            self.world.wait(timedelta(seconds=16), self.world.desks[:2])
        with self.world.step():
            recovery.recover(USING)
        with self.world.step():
            self.world.desks[1 - slot].claim(3)

    @precondition(lambda self: State.SENDING in self.world.states.values())
    @rule()
    def recover(self) -> None:
        with self.world.step():
            recovery.recover(USING)

    @precondition(lambda self: self.world.of_interest)
    @rule(verbs=verbs, index=any_index)
    def turn(self, verbs: tuple[str, ...], index: int) -> None:
        for verb in verbs:
            with self.world.step():
                self.world.turn(verb, index)


@pytest.mark.slow
@pytest.mark.timeout(7200 if IS_TORTURE else 600)
@pytest.mark.django_db(transaction=True)
def test_no_walk_loses_a_message_or_sends_it_once_more_than_was_decided(
    settings: Any, hypothesis_settings: Any
) -> None:
    settings.PILLARBOX = {"ENGINE": "worker"}
    run_state_machine_as_test(Delivery, settings=hypothesis_settings)


@pytest.fixture
def hypothesis_settings() -> settings:
    """The same walks every time, unless it is to be torture."""
    return settings(
        max_examples=2000 if IS_TORTURE else 30,
        stateful_step_count=60,
        derandomize=not IS_TORTURE,
        # To shorten a walk that failed takes minutes; set PILLARBOX_TORTURE for that.
        phases=list(Phase) if IS_TORTURE else [Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
