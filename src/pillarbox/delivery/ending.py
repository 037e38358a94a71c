"""How a drain ends that must stop before nothing is due: it claims no more and leaves no riddle."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from datetime import timedelta

from django.db import DatabaseError, InterfaceError

from pillarbox.delivery import claims, report, wakes
from pillarbox.delivery.claims import LeaseLost
from pillarbox.delivery.outage import FIRST_PAUSE_S, Outage, safely
from pillarbox.delivery.outcomes import InDoubt, MailerDown, Reply, Stage
from pillarbox.delivery.senders.base import Parcel, Result
from pillarbox.delivery.senders.both import MixedSender
from pillarbox.delivery.work import Work
from pillarbox.engines.base import KILL_MARGIN_S, Engine
from pillarbox.models import database_now

logger = logging.getLogger("pillarbox.delivery")

POLL_EVERY_S = 0.05
"""How long a drain waits for its connections' words, or looks away from an empty queue."""
STOP_PATIENCE_S = 10.0
"""How long one that is to stop waits for a lost database, to record what it knows."""
DOT_TIMEOUT_S = 600.0
"""When it gives up a lost database where the engine never kills: RFC 5321 4.5.3.2.6."""


class Stoppable(Work):
    """Work that a signal or the engine's deadline can stop; `_finish` is what it does then."""

    sender: MixedSender

    def __init__(self, engine: Engine, using: str, stop: threading.Event, *, forever: bool) -> None:
        super().__init__(engine, using)
        self._stop = stop
        self._forever = forever
        self._started = time.monotonic()
        self._deadline = engine.deadline()
        self._stopped_at: float | None = None
        self._has_left_behind = False
        self._tended: float | None = None
        self._mend_at = self._started
        self._may_have_strays = False
        """Not at first, unless an answer was lost; later what was given back may be locked."""
        self._outage = Outage(using, self._rest)

    def _bear(self, error: Exception) -> None:
        """Keep the results and try again later: no database, no sends."""
        self._mend_at = time.monotonic()  # to look for what was committed without an answer
        self._may_have_strays = True
        self._outage.bear(error)

    def _rest(self, seconds: float) -> None:
        if self._stop.is_set():
            time.sleep(min(seconds, FIRST_PAUSE_S))
        else:
            self._stop.wait(seconds)

    def _must_stop(self) -> bool:
        if self._stop.is_set():
            return True
        limit = self._deadline.drain_s
        return limit is not None and time.monotonic() - self._started >= limit

    def _finish(self) -> None:
        """Claim no more: give back what waits, and see what is in conversation to its end."""
        if not self.lease.is_lost:
            safely(self.using, self.lease.close)
        # The engine's deadline leaves time to connect to a slow server; a person's stop does not.
        may_connect = not self._stop.is_set() and not self.lease.is_lost
        self._hand_back(self.sender.drop_waiting(keep_connecting=may_connect))
        while self.sender.in_hand or self._is_unsettled:
            if self._is_out_of_time():
                self._break_off()
                break
            self._end_conversations()
        if self._postponed:  # since the successor was woken
            self._hand_back([])
        self._close_books()

    def _is_out_of_time(self) -> bool:
        """Whether the engine is about to kill, or no database comes for the last results."""
        now = time.monotonic()
        kill_s = self._deadline.kill_s
        if kill_s is None and self._outage.is_on and not self._forever:
            kill_s = DOT_TIMEOUT_S
        if kill_s is not None and now - self._started >= max(kill_s - KILL_MARGIN_S, 0):
            return True
        if not self._stop.is_set():
            return False
        self._stopped_at = self._stopped_at or now
        return min(now - self._stopped_at, self._outage.lasts_s) > STOP_PATIENCE_S

    def _close_books(self) -> None:
        """Leave nothing under this drain's name that nobody works on, and say what is unknown."""
        if not self.lease.is_lost:
            safely(self.using, self._give_back_strays)
        # A result of what was not begun says nothing that the queue does not.
        begun = [result for result in self._results if result.parcel.message.begun_at]
        if begun:
            report.unrecorded(begun)

    def _give_back_strays(self) -> None:
        if claims.give_back_strays(self.lease.id, self.using, ()):
            self._has_left_behind = True  # since the successor was woken

    def _hand_back(self, waiting: Sequence[Parcel]) -> None:
        """Queue again what was never begun, and only then wake a successor that looks for it."""
        waiting = [*waiting, *(parcel for _, parcel in self._postponed)]
        self._postponed = []
        if not self.lease.is_lost:
            self._has_left_behind = True
            safely(self.using, lambda: self._let_go(waiting))
            if waiting or not self._forever:
                wakes.wake(self._until_next_token())

    def _until_next_token(self) -> timedelta | None:
        """Return how long a successor would only wait, where the engine can be told; else None."""
        return None

    def _let_go(self, waiting: Sequence[Parcel]) -> None:
        self._has_left_behind = self._give_back(waiting) > 0

    def _end_conversations(self) -> None:
        self._hear(self.sender.collect(POLL_EVERY_S))
        try:
            if self._outage.is_on:
                database_now(self.using)
            if not self.lease.is_lost:
                self.lease.beat()
            self._settle(())
            self._outage.end()
        except LeaseLost as lost:
            logger.warning("%s Its late results count where nobody else has settled.", lost)
        except (DatabaseError, InterfaceError) as error:
            self._bear(error)

    def _break_off(self) -> None:
        """End what the engine is about to kill, and record what is known of it."""
        no_answer = MailerDown(reply=Reply(text="TimeoutError: no answer"), stage=Stage.OPEN)
        self._results += [Result(parcel, no_answer) for parcel in self.sender.drop_waiting()]
        self.sender.break_off()
        until = time.monotonic() + 2
        while (self.sender.in_hand or self._results) and time.monotonic() < until:
            if not self._outage.is_on:
                self._end_conversations()
            elif self.sender.in_hand:  # no time is left to wait for the database
                self._hear(self.sender.collect(POLL_EVERY_S))
            else:
                break
        why = Reply(text="Broken off at the engine's deadline; how far it came is unknown.")
        silent = self.sender.talking()
        doubtful = [Result(p, InDoubt(stage=Stage.UNKNOWN, reply=why)) for p in silent]
        safely(self.using, lambda: super(Stoppable, self)._settle(doubtful))
