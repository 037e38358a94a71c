"""CPU seconds and memory of processes, from /proc; a process that has ended keeps what it used."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
SAMPLE_EVERY_S = 0.25


def stat(pid: int) -> tuple[int, int, float, float]:
    """Return (parent, session, own CPU seconds, those of its ended children).

    Raise OSError if there is no such process. The fields are those of proc(5).
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    used = [int(field) / TICKS_PER_S for field in fields[11:15]]
    return int(fields[1]), int(fields[3]), used[0] + used[1], used[2] + used[3]


def memory_mb(pid: int) -> float:
    """Return a process's share of the memory (PSS): what is shared counts once in all sharers."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def server_cpu_s(pid: int) -> float:
    """Return what a server has used, its processes included, those that have ended too."""
    _, _, own, ended = stat(pid)
    return own + ended + sum(cpu for parent, _, cpu in _all() if parent == pid)


class Meter:
    """Watches the processes of some sessions; each worker is started in a session of its own."""

    def __init__(self, sessions: Iterable[int]) -> None:
        self.sessions = set(sessions)
        self.peak_mb = 0.0
        self._cpu_s = dict.fromkeys(self.sessions, 0.0)
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def cpu_s(self) -> float:
        """Return what they have used until now."""
        self._sample()
        return sum(self._cpu_s.values())

    def stop(self) -> None:
        """Watch no longer."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_EVERY_S):
            self._sample()

    def _sample(self) -> None:
        with self._lock:
            memory = 0.0
            cpu_s = dict.fromkeys(self.sessions, 0.0)
            for pid in _pids():
                try:
                    _, session, own, ended = stat(pid)
                    if session in self.sessions:
                        cpu_s[session] += own + ended
                        memory += memory_mb(pid)
                except OSError:
                    continue  # it has just ended
            self.peak_mb = max(self.peak_mb, memory)
            # A session that has ended adds up to nothing, and keeps what it had used.
            self._cpu_s = {of: max(used, self._cpu_s[of]) for of, used in cpu_s.items()}


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _all() -> Iterator[tuple[int, int, float]]:
    for pid in _pids():
        try:
            parent, session, own, _ = stat(pid)
        except OSError:
            continue
        yield parent, session, own
