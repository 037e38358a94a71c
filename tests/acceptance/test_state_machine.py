"""Whatever two workers, a person and a server do, in any order, no mail is lost and none doubled.

A random walk over the real claims, leases, ledger and verbs; what must hold after each step is in
`tests.support.delivery_model`. PILLARBOX_TORTURE=1 walks for longer, and elsewhere each time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from pillarbox.models import State
from tests.support.delivery_model import ANSWERS, VERBS, Desk, World

MOST_MESSAGES = 2
"""Few, so that all that happens happens to the same ones."""
ALL = 100
IS_TORTURE = os.environ.get("PILLARBOX_TORTURE") == "1"

POLICIES = ["hold", "resend"]
A_SECOND, LEASE, RESEND = timedelta(seconds=1), timedelta(seconds=16), timedelta(seconds=31)
LATER = timedelta(minutes=3)
LIFETIMES = [None, timedelta(seconds=20), timedelta(seconds=50), timedelta(seconds=50)]
TROUBLES = ["renews", "leaves", "hangs", "is killed"]
# A message that is cancelled at once is of no interest: the other verbs come more often.
VERBS_IN_TURN = [*((verb,) for verb in sorted(VERBS)), *2 * [("hold", "release"), ("hold",)]]

REFUSED_FOR_NOW = [answer for answer in sorted(ANSWERS) if answer.endswith("for now")]

Draw = Callable[[Sequence[Any]], Any]


class Delivery(RuleBasedStateMachine):
    """One rule that draws what happens next: a thing, or a few that make a race.

    One and not many, since of many Hypothesis leaves out half in each walk, and the races want all.
    `tests.mutations` says whether the walks still notice what they should.
    """

    MOVES = {
        "send": 1,
        "claim": 2,
        "go_on": 4,
        "begin": 2,
        "answer": 3,
        "break_off": 2,
        "is_stale": 1,
        "give_back": 1,
        "trouble": 1,
        "wait": 1,
        "is_thought_dead": 1,
        "turn": 2,
        "retry": 1,
        "take_away": 1,
        "claim_again": 2,
        "outlive_a_claim": 1,
    }

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

    @initialize(chance=st.randoms(use_true_random=not IS_TORTURE))
    def start(self, chance: Random) -> None:
        """There is one message at least. Evenly drawn, the same few walks see more."""
        self.chance = chance
        self.send(self.draw)

    @rule()
    def happen(self) -> None:
        moves = [move for move in self.MOVES if self.can(move)]
        (move,) = self.chance.choices(moves, [self.MOVES[move] for move in moves])
        note(f"{move}:")
        getattr(self, move)(self.draw)

    def draw(self, choices: Sequence[Any]) -> Any:
        choice = self.chance.choice(choices)
        note(f"    {choice}")
        return choice

    def can(self, move: str) -> bool:
        match move:
            case "send":
                return len(self.world.unfinished) < MOST_MESSAGES
            case "claim":
                return State.QUEUED in self.world.states.values()
            case "begin" | "give_back" | "take_away" | "claim_again" | "outlive_a_claim":
                return bool(self.those("claimed"))
            case "answer" | "break_off" | "is_stale":
                return bool(self.those("begun"))
            case "is_thought_dead":
                return State.SENDING in self.world.states.values()
            case "retry":
                return State.FAILED in self.world.states.values()
            case "turn":
                return bool(self.world.of_interest)
        return True

    def those(self, what: str) -> list[Desk]:
        """Return the desks that have something ``claimed``, ``begun`` or ``answered``."""
        return [desk for desk in self.world.desks if getattr(desk, what)]

    # What may happen

    def send(self, draw: Draw) -> None:
        with self.world.step():
            self.world.send(
                draw(POLICIES),
                draw([1, 2]),
                expires_at=draw(LIFETIMES),
                sensitive=draw([False, False, True]),
            )

    def claim(self, draw: Draw) -> None:
        with self.world.step():
            self.world.desks[draw([0, 1])].claim(draw([1, 2]))

    def go_on(self, draw: Draw) -> None:
        """A worker does what comes next: it records, hears, begins, claims, or waits."""
        slot = draw(range(len(self.world.desks)))
        desk = self.world.desks[slot]
        with self.world.step():
            if desk.answered:
                self.world.commit(desk, draw([0, 1, 2]))
            elif desk.begun:
                self.world.converse(desk, draw(desk.begun), draw(sorted(ANSWERS)))
            elif desk.claimed:
                self.world.commit(desk, draw([1, 2]))
            elif desk.is_lost:
                self.world.kill(slot)
            elif not desk.claim(draw([1, 2])):
                self.world.wait(RESEND, self.world.desks[:2])

    def begin(self, draw: Draw) -> None:
        """A worker with several connections begins more while others talk."""
        desk = draw(self.those("claimed"))
        with self.world.step():
            if draw([True, True, False]):
                self.world.commit(desk, draw([1, 2, 3]), newest=draw([False, True]))
            else:
                self.world.commit_unheard(desk, draw([1, 2]))

    def answer(self, draw: Draw) -> None:
        """A conversation ends and is recorded, whatever became of the message meanwhile."""
        desk = draw(self.those("begun"))
        with self.world.step():
            self.world.converse(desk, draw(desk.begun), draw(sorted(ANSWERS)))
        with self.world.step():
            if draw([True, True, False]):
                self.world.commit(desk, 0)
            else:
                self.world.commit_unheard(desk, 0)

    def break_off(self, draw: Draw) -> None:
        """A doubt is recorded of a conversation that goes on: its result comes late."""
        desk = draw(self.those("begun"))
        parcel = draw(desk.begun)
        with self.world.step():
            self.world.break_off(desk, parcel)
        with self.world.step():
            self.world.wait(draw([A_SECOND, RESEND, LATER]), self.world.desks[:2])
            desk.claim(2)
        if draw([True, False]):
            with self.world.step():
                self.world.commit(desk, ALL)
            with self.world.step():
                self.world.converse(desk, parcel, draw(sorted(ANSWERS)))
            with self.world.step():
                self.world.commit(desk, 0)

    def is_stale(self, draw: Draw) -> None:
        desk = draw(self.those("begun"))
        with self.world.step():
            self.world.disown(desk, draw(desk.begun))

    def give_back(self, draw: Draw) -> None:
        desk = draw(self.those("claimed"))
        with self.world.step():
            self.world.give_back(desk)

    def trouble(self, draw: Draw) -> None:
        """A worker renews its lease, ends, hangs and is replaced, or is killed."""
        slot = draw([0, 1])
        desk = self.world.desks[slot]
        with self.world.step():
            match draw(TROUBLES):
                case "renews":
                    desk.renew()
                case "leaves":
                    desk.lease.drop()
                case "hangs":
                    self.world.replace(slot)
                case "is killed":
                    self.world.kill(slot)

    def wait(self, draw: Draw) -> None:
        """Time passes; the workers that live renew their leases, the others' run out."""
        alive = [desk for desk in self.world.desks[:2] if draw([True, False])]
        with self.world.step():
            self.world.wait(draw([A_SECOND, LEASE, RESEND, LATER]), alive)
        if draw([True, False]):
            with self.world.step():
                self.world.recover()

    def is_thought_dead(self, draw: Draw) -> None:
        """A worker hangs until all that it held is the other's; then it may go on."""
        world = self.world
        slot = draw([slot for slot in (0, 1) if world.desks[slot].knows_something] or [0, 1])
        hanging = world.desks[slot]
        if draw([False, True]):
            with world.step():
                world.commit_unheard(hanging, 1)
        with world.step():
            world.replace(slot)
        with world.step():
            world.wait(LEASE, world.desks[:2])
        with world.step():
            world.recover()
        with world.step():
            world.wait(draw([A_SECOND, RESEND]), world.desks[:2])
            world.desks[1 - slot].claim(2)
        if hanging.begun and draw([True, False]):
            with world.step():
                world.converse(hanging, hanging.begun[0], draw(sorted(ANSWERS)))
        if draw([True, False]):
            with world.step():
                world.commit(hanging, ALL)

    def turn(self, draw: Draw) -> None:
        pk = draw(self.world.of_interest)
        for verb in draw(VERBS_IN_TURN):
            with self.world.step():
                self.world.turn(verb, pk)

    def retry(self, draw: Draw) -> None:
        pks = [pk for pk, state in self.world.states.items() if state is State.FAILED]
        with self.world.step():
            self.world.turn("retry", draw(pks))

    def take_away(self, draw: Draw) -> None:
        """A person takes a claim away, and the worker begins it all the same."""
        desk = draw(self.those("claimed"))
        message = draw(desk.claimed).message
        with self.world.step():
            self.world.turn(draw(["cancel", "hold"]), message.pk)
        with self.world.step():
            self.world.commit(desk, ALL)

    def claim_again(self, draw: Draw) -> None:
        """The worker that has a message twice begins it in one group, in two, or gives back."""
        desk = self.take_and_give(draw)
        for count in draw([(), (ALL,), (1, ALL), (1,)]):
            with self.world.step():
                self.world.commit(desk, count, newest=draw([False, True]))
        if draw([False, True]):
            with self.world.step():
                self.world.give_back(desk)

    def take_and_give(self, draw: Draw) -> Desk:
        """A person takes a claim away and gives it back: the worker has it twice."""
        desk = draw(self.those("claimed"))
        message = draw(desk.claimed).message
        for verb in ("hold", "release"):
            with self.world.step():
                self.world.turn(verb, message.pk)
        with self.world.step():
            desk.claim(2)
        return desk

    def outlive_a_claim(self, draw: Draw) -> None:
        """Of two claims of a message the second is tried and a third is made; the first waits."""
        desk = self.take_and_give(draw)
        with self.world.step():
            self.world.commit(desk, 1, newest=True)
        if desk.begun:
            with self.world.step():
                self.world.converse(desk, desk.begun[-1], draw(REFUSED_FOR_NOW))
        with self.world.step():
            self.world.commit(desk, 0)
        with self.world.step():
            self.world.wait(RESEND, self.world.desks[:2])
            desk.claim(2)
        with self.world.step():
            self.world.commit(desk, draw([0, 1, ALL]), newest=draw([False, True]))


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
