"""The ways to kill: at each named point, stopped at some of them for long, at random moments."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from functools import partial
from itertools import cycle, product
from typing import Any

from django.db import connection

from tests.torture import points, victims
from tests.torture.run import POLICIES, Run
from tests.torture.stops import SAYING_S, STOP_S

MAILS_A_POINT = 24
LONG_STOP_S = victims.LEASE_S + victims.TEND_S + 35
"""So long that a stopped process which held up the others would break the promise of 30 s."""
WITHIN_A_TRANSACTION = ("claim-before-commit", "begin-before-commit", "record-before-commit")
BEGUN = ("begin-after-commit", "data")


def at_each_point(run: Run) -> None:
    """Kill one process at each point and under each policy, with fresh mail for each.

    In a hurry each point has one of the policies, by turns.
    """
    orders = list(product(points.POINTS, POLICIES))
    if run.plan.hurry:
        by_turns = cycle(random.sample(POLICIES, len(POLICIES)))
        orders = list(zip(points.POINTS, by_turns, strict=False))
    random.shuffle(orders)
    for point, policy in orders:
        pid, moment = _strike(run, point, policy, signal.SIGKILL)
        run.crew.buried(pid)
        run.kills.append(moment)
    _flow(run, *POLICIES)  # the audit asks when mail goes again


def _strike(run: Run, point: str, policy: str, how: signal.Signals) -> tuple[int, float]:
    _flow(run, policy)
    points.order(run.folder, point, how)
    look = _Supplied(run, policy, condition=partial(points.carried_out, run.folder, point))
    struck: tuple[int, float] = run.wait(f"a process at {point}", look, run.engine.patience_s + 60)
    return struck


def _flow(run: Run, *policies: str) -> None:
    """Queue mail and wait until some of it has gone, so that a process dies in full work."""
    run.queue(MAILS_A_POINT, *policies)
    enough = run.ledger.accepted + random.randint(1, MAILS_A_POINT // 2)
    look = _Supplied(run, *policies, condition=lambda: run.ledger.accepted >= enough)
    run.wait("mail to go", look, run.engine.patience_s + 60)


class _Supplied:
    """A condition; more mail comes while it waits, since what is there is often in dead hands."""

    def __init__(self, run: Run, *policies: str, condition: Callable[[], Any]) -> None:
        self._run, self._policies, self._condition = run, policies, condition
        self._given_at = time.monotonic()

    def __call__(self) -> Any:
        if time.monotonic() - self._given_at > 2:
            self._given_at = time.monotonic()
            self._run.queue(MAILS_A_POINT, *self._policies)
        return self._condition()


def stopped_at_points(run: Run) -> None:
    """Stop processes within a transaction and after begin, for long; the others go on meanwhile.

    On SQLite not within a transaction: there it is everybody's, as with any other program.
    """
    where = BEGUN if connection.vendor == "sqlite" else (*WITHIN_A_TRANSACTION, *BEGUN)
    with run.crew.reinforced(by=len(where)):
        for point, policy in zip(where, POLICIES * len(where), strict=False):
            pid, moment = _strike(run, point, policy, signal.SIGSTOP)
            run.stops.note(pid, moment, LONG_STOP_S)
        while not run.stops.are_over():
            run.asked.append(time.monotonic())
            _flow(run, *POLICIES)
            time.sleep(0.5)


def at_random(run: Run) -> None:
    """Kill, and stop for longer than a lease, all over the run."""
    plan = run.plan
    sent_before = run.ledger.accepted
    run.queue(plan.mails, *POLICIES)
    # No kill near the end: mail must be left that goes after it, and what is held in doubt may
    # never be accepted.
    step = (plan.mails - plan.kills * victims.CONNECTIONS) / (plan.kills + 2)
    parts = plan.short_stops + 1
    stop_at = {round(part * plan.kills / parts) for part in range(1, parts)}
    for number in range(plan.kills):
        threshold = sent_before + step * (number + random.uniform(0.5, 1.5))

        def is_time(threshold: float = threshold) -> bool:
            return run.ledger.accepted >= threshold

        run.wait(f"{threshold:.0f} mails", is_time, 2 * run.engine.patience_s + 60)
        if number in stop_at:
            run.wait("a process to stop", run.stops.stop_any, run.engine.patience_s + 60)
        time.sleep(random.uniform(0, 0.03))
        kill = partial(_kill_one, run)
        run.kills.append(run.wait("a process at work", kill, run.engine.patience_s + 60))
    run.wait("the stopped ones", run.stops.are_over, STOP_S + SAYING_S + 10)


def _kill_one(run: Run) -> float | None:
    """Kill a process that is at work, sometimes all of its session; return when."""
    pids = [pid for pid in run.crew.at_work() if pid not in run.stops.spared]
    if not pids:
        return None
    pid, moment = random.choice(pids), time.monotonic()
    try:
        (run.crew.kill_with_its_kin if random.random() < 0.1 else run.crew.kill)(pid)
    except ProcessLookupError:
        return None
    return moment
