"""A run under way: its mail, its clock, what the database says, and what the audit asks for."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from io import StringIO
from itertools import count
from pathlib import Path
from typing import Any

from tests.torture import victims
from tests.torture.audit import Facts, Row
from tests.torture.ledger import Ledger
from tests.torture.stops import Stops

POLICIES = ("hold", "resend")
BODY = "It gets there, whatever becomes of those who carry it. " * 40
RESEND_AFTER_S = 30


class Stuck(Exception):
    """Something was waited for and did not come."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one run does: kills at each named point under each policy, long stops, random kills.

    ``kills`` is how many at random moments, while ``mails`` are under way. With ``hurry`` nobody
    waits 30 s for a doubtful mail to be sent again: it is made due at once.
    """

    database: str
    engine: str
    at_points: bool = False
    long_stops: bool = False
    mails: int = 0
    kills: int = 0
    short_stops: int = 0
    seed: int = 0
    hurry: bool = False

    @property
    def title(self) -> str:
        """How it is called in what is printed."""
        return f"{self.database}, {self.engine}, {self.killed}"

    @property
    def killed(self) -> str:
        """When its processes are killed."""
        ways = {
            "at each point": self.at_points,
            "stopped": self.long_stops,
            "at random": self.kills,
        }
        return ", ".join(way for way, wanted in ways.items() if wanted)


class Run:
    """The run under way."""

    def __init__(self, plan: Plan, crew: victims.Crew, ledger: Ledger, folder: Path) -> None:
        self.plan = plan
        self.engine = victims.ENGINES[plan.engine]
        self.crew = crew
        self.ledger = ledger
        self.folder = folder
        self.queued: list[str] = []
        self.kills: list[float] = []
        self.asked: list[float] = []
        self.stops = Stops(crew, says_so=plan.engine == "worker")
        self._numbers = count(1)
        self._told_at = time.monotonic()

    def queue(self, number: int, *streams: str) -> None:
        """Queue mails, by turns on each of the streams, whose names are their policies."""
        from django.core.mail import EmailMessage

        from pillarbox import send_emails

        send_emails(self._mail(EmailMessage, streams[n % len(streams)]) for n in range(number))

    def _mail(self, make: Callable[..., Any], stream: str) -> Any:
        number = next(self._numbers)
        message_id = f"<{number}.{os.getpid()}@torture.example.org>"
        self.queued.append(message_id)
        mail = make(f"n{number}", BODY, to=["ada@example.org"], headers={"Message-ID": message_id})
        mail.pillarbox = {"stream": stream}
        return mail

    def wait(self, for_what: str, condition: Callable[[], Any], timeout_s: float) -> Any:
        """Return the first true value of the condition, mending the crew. Raise Stuck if none."""
        until = time.monotonic() + timeout_s
        while not (value := condition()):
            if time.monotonic() > until:
                raise Stuck(f"Not within {timeout_s:.0f} s: {for_what}. {self.state()}")
            self.crew.mend()
            self.stops.tend()
            self.tell()
            time.sleep(0.01)
        return value

    def state(self) -> str:
        """Return how far it is."""
        from django.db.models import Count

        from pillarbox.models import Message

        counted = Message.objects.order_by().values("state").annotate(number=Count("pk"))
        states = ", ".join(f"{row['state']} {row['number']}" for row in counted)
        told = f"{self.ledger.accepted} accepted, {len(self.kills)} killed, {states}"
        return f"{self.plan.title}: {told}"

    def tell(self) -> None:
        """Say how far it is, every ten seconds."""
        if time.monotonic() - self._told_at > 10:
            self._told_at = time.monotonic()
            print(self.state(), file=sys.stderr, flush=True)

    def settle(self) -> None:
        """Wait until nothing is queued and nothing is being sent."""
        rounds = 2 * self.engine.patience_s + RESEND_AFTER_S
        self.wait("quiet", self._is_quiet, 30 + rounds)

    def _is_quiet(self) -> bool:
        from pillarbox.delivery import database
        from pillarbox.models import DatabaseNow, Message, State

        if self.plan.hurry:
            doubtful = Message.objects.filter(state=State.QUEUED, resends__gt=0)
            late = doubtful.filter(due_at__gt=DatabaseNow())
            if late.exists():
                database.run_alone(late.db, partial(late.update, due_at=DatabaseNow()))
        time.sleep(0.1)
        return not Message.objects.filter(state__in=(State.QUEUED, State.SENDING)).exists()

    def facts(self) -> Facts:
        """Return everything that the audit asks for."""
        return Facts(
            queued=self.queued,
            rows=_rows(),
            accepted=self.ledger.read(),
            kills=self.kills,
            connections=victims.CONNECTIONS,
            patience_s=self.engine.patience_s,
            stops=self.stops.moments,
            asked=self.asked,
        )


def _rows() -> list[Row]:
    from django.core.management import call_command

    from pillarbox.models import Message

    said = StringIO()
    call_command("pillarbox", "doubts", "--json", stdout=said)
    listed = {doubt["message_id"] for doubt in json.loads(said.getvalue())}
    found = Message.objects.order_by("pk").values_list("message_id", "stream", "state", "resends")
    return [Row(*row, is_listed=row[0] in listed) for row in found.iterator()]
