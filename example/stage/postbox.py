"""The demo's end of the mail server: what has arrived so far, and waiting for what is to come."""

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
        self._news = threading.Condition()
        first = server.output.readline()
        if not first:
            raise DemoFailed("The mail server did not start.")
        self.port: int = json.loads(first)["port"]
        threading.Thread(target=self._read, args=(server,), daemon=True).start()

    @property
    def arrivals(self) -> list[Arrival]:
        """All that has arrived."""
        with self._news:
            return list(self._arrivals)

    def wait_for(self, subject: str, recipient: str, *, within_s: float = 20) -> Arrival:
        """Return the newest mail with this subject to this recipient; raise DemoFailed if none."""

        def find() -> Arrival | None:
            for arrival in reversed(self._arrivals):
                if arrival.mail.subject == subject and recipient in arrival.mail.recipients:
                    return arrival
            return None

        with self._news:
            found = self._news.wait_for(find, within_s)
        if found is None:
            raise DemoFailed(f"“{subject}” did not reach {recipient} within {within_s:.0f} s.")
        return found

    def _read(self, server: Child) -> None:
        for line in server.output:
            facts = json.loads(line)
            arrival = Arrival.read(Path(facts["path"]), facts["moment"], facts["recipients"])
            with self._news:
                self._arrivals.append(arrival)
                self._news.notify_all()
            self._shows(arrival)
