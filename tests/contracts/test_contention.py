"""Eight processes on one queue, drains that are thought dead, and a person who interferes."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.mail import EmailMessage
from django.db import connection
from django.db.models import Q

from pillarbox import outbox, send_emails
from pillarbox.delivery import database
from pillarbox.exceptions import InvalidTransition
from pillarbox.models import FINISHED, Attempt, DatabaseNow, Drain, Message, State
from tests.support.delivery_model import USING
from tests.support.processes import running, with_settings

MESSAGES = 600
MESSAGES_ON_SQLITE = 200
"""It has one writer at a time."""
PATIENCE_S = 90
UNFINISHED = [state for state in State if state not in FINISHED]


class Person:
    """Cancels, holds, releases and resolves; counts where that may cost a second copy."""

    def __init__(self, pks: list[int]) -> None:
        self.pks = pks
        self.chance = random.Random(8)
        self.granted: Counter[int] = Counter()

    def interfere(self) -> None:
        """Try a verb on some message."""
        verb = self.chance.choice([outbox.cancel, outbox.hold, outbox.hold, outbox.release])
        self.turn(verb, self.chance.choice(self.pks))

    def decide(self) -> None:
        """Release what is held and resolve what is in doubt, all of it."""
        for pk in Message.objects.filter(state=State.HELD).values_list("pk", flat=True):
            self.turn(outbox.release, pk)
        for pk in Message.objects.filter(state=State.IN_DOUBT).values_list("pk", flat=True):
            self.turn(self.chance.choice([self.was_sent, self.was_not_sent]), pk)

    @staticmethod
    def was_sent(message: Message) -> Message:
        return outbox.resolve(message, sent=True)

    @staticmethod
    def was_not_sent(message: Message) -> Message:
        return outbox.resolve(message, sent=False)

    def turn(self, verb: Any, pk: int) -> None:
        def work() -> bool:
            before = Message.objects.select_for_update().get(pk=pk)
            verb(before)
            return before.begun_at is not None

        with suppress(InvalidTransition):
            if database.run(USING, work) and verb in (outbox.release, self.was_not_sent):
                self.granted[pk] += 1


def deeds(directory: Path) -> Iterator[tuple[str, int, str, str]]:
    """Return what the processes have written down."""
    for file in directory.glob("*.jsonl"):
        for line in file.read_text().splitlines():
            what, pk, drain, address = json.loads(line)
            yield what, pk, drain, address


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.django_db(transaction=True)
def test_eight_processes_begin_each_claim_once_and_finish_each_message_once(
    process_env: dict[str, str], tmp_path: Path, settings: Any
) -> None:
    settings.PILLARBOX = {"ENGINE": "worker"}
    count = MESSAGES if connection.vendor != "sqlite" else MESSAGES_ON_SQLITE
    for policy in ("hold", "resend"):
        mails = (
            EmailMessage(
                f"n{number}", "body", to=["a@example.org", f"u{number}@example.org"][:copies]
            )
            for number, copies in zip(range(count // 2), [1, 2] * count, strict=False)
        )
        send_emails(mails, in_doubt=policy)
    person = Person(list(Message.objects.values_list("pk", flat=True)))

    env = with_settings(process_env, PILLARBOX={"ENGINE": "worker"})
    arguments = ["-m", "tests.support.contention", str(tmp_path), str(PATIENCE_S)]
    with running(arguments, env, ready="started") as processes:
        until = time.monotonic() + PATIENCE_S
        waiting = Message.objects.filter(state__in=[State.QUEUED, State.SENDING])
        while waiting.exists() and time.monotonic() < until:
            person.interfere()
        while Message.objects.filter(state__in=UNFINISHED).exists() and time.monotonic() < until:
            person.decide()
            time.sleep(0.05)
        (tmp_path / "stop").touch()
        processes.ended(timeout_s=60)

    stuck = Message.objects.filter(state__in=UNFINISHED)
    assert not list(stuck.values_list("pk", "state")), "stuck"
    assert Message.objects.count() == 2 * (count // 2)
    assert not Message.objects.filter(Q(drain__isnull=False) | Q(begun_at__isnull=False)).exists()
    audit(list(deeds(tmp_path)), person)


def audit(done: list[tuple[str, int, str, str]], person: Person) -> None:
    """Hold what the processes did against what was allowed."""
    by_claim = Counter((what, pk, drain) for what, pk, drain, _ in done)
    finished = Counter(pk for what, pk, _, _ in done if what in FINISHED)
    taken = Counter((pk, address) for what, pk, _, address in done if what == "taken")
    resends = dict(Message.objects.values_list("pk", "resends"))

    for (what, pk, drain), times in by_claim.items():
        if what == "begun":
            assert times <= by_claim["claimed", pk, drain], f"{pk}: more begins than claims"
    assert set(finished.values()) == {1}, "a result has finished a message that was finished"
    for (pk, address), times in taken.items():
        allowed = 1 + resends[pk] + person.granted[pk]
        assert times <= allowed, f"{pk} went to {address} {times} times, for {allowed}"
    sent = Attempt.objects.filter(result=Attempt.Result.SENT).values_list("message", flat=True)
    assert set(Counter(sent).values()) == {1}
    # It was a fight: results came late, and leases were lost in the middle of things.
    assert sum(resends.values()) > 0
    assert Attempt.objects.filter(reply__startswith="The worker died after begin").exists()
    assert not Drain.objects.filter(lease_until__lt=DatabaseNow(-timedelta(minutes=5))).exists()
