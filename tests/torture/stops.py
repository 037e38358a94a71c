"""Processes that were stopped, as a suspended machine would stop them, and go on after a while."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from django.db import OperationalError, connection, transaction

from tests.torture import victims

STOP_S = victims.LEASE_S + victims.TEND_S + 3
"""So long that others have found the lease run out, and taken everything."""
SAYING_S = 20


@dataclass
class _Stopped:
    pid: int
    drains: list[str]
    goes_on_at: float
    says_until: float | None = None


class Stops:
    """Those of one run. ``says_so``: the engine's drains are to say in the log what they lost."""

    def __init__(self, crew: victims.Crew, *, says_so: bool) -> None:
        self.moments: list[float] = []
        self.broken: list[str] = []
        self._crew = crew
        self._says_so = says_so
        self._stopped: list[_Stopped] = []

    @property
    def spared(self) -> set[int]:
        """The processes that are stopped, or have gone on and not yet said what they lost."""
        return {one.pid for one in self._stopped}

    def stop_any(self) -> bool:
        """Stop a process that is at work, if there is one."""
        pids = [pid for pid in self._crew.at_work() if pid not in self.spared]
        if not pids:
            return False
        pid, moment = random.choice(pids), time.monotonic()
        self._crew.stop(pid)
        if _is_locked():
            self._crew.go_on(pid)
            return False
        self.note(pid, moment, STOP_S)
        return True

    def note(self, pid: int, moment: float, for_s: float) -> None:
        """Note that a process has stopped; it is to go on after ``for_s`` seconds."""
        self._crew.stopped(pid)
        self.moments.append(moment)
        self._stopped.append(_Stopped(pid, self._crew.drains_of(pid), moment + for_s))

    def tend(self) -> None:
        """Let those go on whose time has come, and listen to what they say."""
        now = time.monotonic()
        for one in list(self._stopped):
            if one.says_until is None:
                if now >= one.goes_on_at:
                    self._crew.go_on(one.pid)
                    one.says_until = now + SAYING_S
            elif self._crew.is_dead(one.pid) or self._has_said(one):
                self._stopped.remove(one)
            elif now >= one.says_until:
                self._stopped.remove(one)
                self.broken.append(f"process {one.pid}, stopped and continued, did not say so")

    def _has_said(self, one: _Stopped) -> bool:
        if not self._says_so:
            return True  # at its deadline a drain ends without a word, and claims no more
        log = self._crew.log()
        return any(f"{id} has run out" in log or f"{id} is gone" in log for id in one.drains)

    def are_over(self) -> bool:
        """Tend, and say whether nothing is left to wait for."""
        self.tend()
        return not self._stopped


def _is_locked() -> bool:
    """Whether SQLite's one write lock is taken: a process stopped with it stops everybody."""
    if connection.vendor != "sqlite":
        return False
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout = 100")
        try:
            with transaction.atomic():
                return False
        except OperationalError:
            return True
        finally:
            cursor.execute("PRAGMA busy_timeout = 20000")
