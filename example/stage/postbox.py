"""The demo's end of the mail server: what has arrived so far."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

from stage.mail import Arrival
from stage.processes import Child, DemoFailed


class Postbox:
    """Reads what the mail server prints, in a thread; ``shows`` is called with each arrival."""

    def __init__(self, server: Child, shows: Callable[[Arrival], None]) -> None:
        self._shows = shows
        self._arrivals: list[Arrival] = []
        self._lock = threading.Lock()
        first = server.output.readline()
        if not first:
            raise DemoFailed("The mail server did not start.")
        self.port: int = json.loads(first)["port"]
        threading.Thread(target=self._read, args=(server,), daemon=True).start()

    @property
    def arrivals(self) -> list[Arrival]:
        """All that has arrived."""
        with self._lock:
            return list(self._arrivals)

    def find(self, subject: str, recipient: str) -> Arrival | None:
        """Return the newest mail with this subject to this recipient, if it has arrived."""
        for arrival in reversed(self.arrivals):
            if arrival.mail.subject == subject and recipient in arrival.mail.recipients:
                return arrival
        return None

    def _read(self, server: Child) -> None:
        for line in server.output:
            facts = json.loads(line)
            arrival = Arrival.read(Path(facts["path"]), facts["moment"], facts["recipients"])
            with self._lock:
                self._arrivals.append(arrival)
            self._shows(arrival)
