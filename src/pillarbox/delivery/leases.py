"""The drain's own row: slot, heartbeat, hand-over of wakes, and leaving without losing one."""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from datetime import datetime, timedelta

from django.db import IntegrityError
from django.db.models import QuerySet

from pillarbox.conf import get_settings
from pillarbox.delivery import database, taking
from pillarbox.delivery.claims import LEASE, LeaseLost
from pillarbox.delivery.taking import Taken
from pillarbox.delivery.ways import Way
from pillarbox.engines.base import Engine
from pillarbox.models import DatabaseNow, Drain

logger = logging.getLogger("pillarbox.delivery")

LINGER_S = 0.1
"""L: how long a drain that finds nothing looks on; must exceed the coalescing window W."""
RENEW_EVERY_S = 5.0
STALE_AFTER_S = 10.0
"""Without a renewal for this long nothing more is written to a socket: nothing else fences it."""
_DEAD_WAITER = {"waits": True, "lease_until__lte": DatabaseNow()}


class Lease:
    """The row of one drain, from taking it to leaving."""

    def __init__(self, engine: Engine, using: str) -> None:
        self.id = uuid.uuid4()
        self.using = using
        self._engine = engine
        self._renewed_at = time.monotonic()
        self.taken: Taken | None = None
        """What was told with the row, where one statement took it."""
        self.is_lost = False
        self.is_waiting = False
        self._is_gone = False

    def take(self, way: Way | None = None) -> bool:
        """Take a row and, where the engine's drains are counted, a slot.

        Messages of ``way``, up to its limit, may be claimed with it, see `taking`. Return False
        where another drain has been told to stay instead: the wake is in its hands.
        """
        if not self._engine.takes_slots:
            self.insert(slot=None)
            return True
        if database.prepares(self.using) and self._take_free_slot(way):
            return True
        while True:
            taken = self._taken_slots()
            if any(taken.values()) and self._hand_over(idle=True, slot__isnull=False):
                return False
            for slot in range(1, get_settings().max_drains + 1):
                if slot in taken:
                    continue
                if self._try_insert(slot):
                    return True
            if self._hand_over(slot__isnull=False):
                return False
            self._free_slots_of_the_dead()
            time.sleep(0.01)

    def _take_free_slot(self, way: Way | None) -> bool:
        started = time.monotonic()
        slots = get_settings().max_drains
        self.taken = taking.take_free_slot(self.using, self._who, LEASE, slots, way)
        self._renewed_at = started
        return self.taken is not None

    @property
    def _who(self) -> tuple[uuid.UUID, str, int, str]:
        return self.id, socket.gethostname(), os.getpid(), self._engine.name

    def _taken_slots(self) -> dict[int, bool]:
        """Return the slots that drains have, and whether each says that it is idle."""
        taken = Drain.objects.using(self.using).filter(slot__isnull=False)
        return {slot: idle for slot, idle in taken.values_list("slot", "idle") if slot is not None}

    def _free_slots_of_the_dead(self) -> None:
        """Else a drain would wait for ever where all have died: only one at work recovers."""
        holding = Drain.objects.using(self.using).filter(slot__isnull=False)
        dead = holding.filter(lease_until__lte=DatabaseNow())
        database.run(self.using, lambda: database.update_free(dead, slot=None))

    def _try_insert(self, slot: int) -> bool:
        try:
            self.insert(slot=slot)
        except IntegrityError:  # another drain was faster
            return False
        return True

    def insert(self, *, slot: int | None) -> None:
        """Write the row. Raise IntegrityError where the slot is taken."""
        row = {
            **dict(zip(("id", "host", "pid", "engine"), self._who, strict=True)),
            "slot": slot,
            "started_at": DatabaseNow(),
            "lease_until": DatabaseNow(LEASE),
            "stay_until": DatabaseNow(),
        }
        database.run_alone(self.using, lambda: Drain.objects.using(self.using).create(**row))
        self._renewed_at = time.monotonic()

    def _hand_over(self, **which: bool) -> bool:
        live = Drain.objects.using(self.using).filter(
            lease_until__gt=DatabaseNow(), closing=False, **which
        )
        stay_until = DatabaseNow(timedelta(seconds=LINGER_S))

        def work() -> int:
            return database.update_free(live, stay_until=stay_until)

        return bool(database.run(self.using, work))

    def beat(self) -> None:
        """Renew the lease if 5 s have passed. Raise LeaseLost if it had run out."""
        if time.monotonic() - self._renewed_at >= RENEW_EVERY_S:
            self._renew()

    def _renew(self) -> None:
        started = time.monotonic()
        mine = self._mine.filter(lease_until__gt=DatabaseNow())
        if not database.run_alone(self.using, lambda: mine.update(lease_until=DatabaseNow(LEASE))):
            self.is_lost = True
            raise LeaseLost(f"The lease of drain {self.id} has run out.")
        self._renewed_at = started

    @property
    def _mine(self) -> QuerySet[Drain]:
        return Drain.objects.using(self.using).filter(pk=self.id)

    def renewed(self, at: float) -> None:
        """Note that a claim renewed the lease in a transaction that began ``at`` (monotonic)."""
        self._renewed_at = at

    @property
    def is_fresh(self) -> bool:
        """Whether the drain may still write to a socket."""
        return not self.is_lost and time.monotonic() - self._renewed_at < STALE_AFTER_S

    def mark_idle(self) -> None:
        """Say that this drain lingers, so that a starting one hands its wake over."""
        database.run_alone(self.using, lambda: self._mine.update(idle=True))

    def wait_for_tokens(self) -> bool:
        """Become the drain that waits for the tokens of streams with a rate, over all hosts.

        Return False where another one does already and was told to stay: the rest may leave.
        """
        drains = Drain.objects.using(self.using)
        while not self.is_waiting:
            database.run(self.using, lambda: drains.filter(**_DEAD_WAITER).update(waits=None))
            if self._try_wait():
                break
            if self._hand_over(waits=True):
                return False
            time.sleep(0.01)
        return True

    def _try_wait(self) -> bool:
        try:
            changed = database.run_alone(self.using, lambda: self._mine.update(waits=True))
        except IntegrityError:  # another one waits
            return False
        if not changed:
            self.is_lost = True
            raise LeaseLost(f"The row of drain {self.id} is gone.")
        self.is_waiting = True
        return True

    def close(self) -> None:
        """Take no more wakes and free the slot; the lease and the row stay."""
        values = {"closing": True, "idle": False, "slot": None, "waits": None}
        database.run_alone(self.using, lambda: self._mine.update(**values))
        self.is_waiting = False

    def try_leave(self, looked_at: datetime) -> bool:
        """Delete the row unless a wake was handed over after the last empty look began.

        Of this and the hand-over, whichever commits first wins, and no wake is lost. Return
        False if the drain must stay. Raise LeaseLost if the row is gone.
        """
        quiet = self._mine.filter(stay_until__lte=looked_at)
        if database.run(self.using, lambda: quiet.delete()[0]):
            self._is_gone = True
            return True
        if not self._mine.exists():
            self.is_lost = True
            raise LeaseLost(f"The row of drain {self.id} is gone.")
        return False

    def drop(self) -> None:
        """Delete the row, whatever it says; what the drain still holds is then recovered."""
        if self._is_gone or self.is_lost:
            return
        database.run(self.using, lambda: self._mine.delete())
