"""Faults at every step at once, two workers, both policies: nothing lost, nothing twice in silence.

PILLARBOX_TORTURE=1 makes the storm a long one.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from django.core.mail import EmailMessage

from pillarbox import send_emails
from pillarbox.models import Attempt, Message, State
from tests.services import SMTP_SINK
from tests.support.audit import Audit, audit
from tests.support.ledger_sink import ledger_sink_process
from tests.support.ledger_sink.faults import SILENT, Script
from tests.support.ports import free_port, wait_for_port
from tests.support.processes import running, wait_for, with_settings
from tests.support.smtp_steps import Step

LONG = os.environ.get("PILLARBOX_TORTURE") == "1"
MAILS = 20_000 if LONG else 1_500
PATIENCE_S = 1_500 if LONG else 120
WORKERS = 2
SEED = 1_003
LULL_S = 0.8
"""How long each of the sinks is there."""
BODY = "It gets there.\n" * 80
ODDS = {
    "disconnect": 0.01,
    "hang": 0.002,
    "421": 0.01,
    "4xx": 0.02,
    "5xx": 0.01,
    "530": 0.002,
    "garbage": 0.01,
    "slow": 0.01,
}
"""At each step of each mail: a third of the mails meet a fault in each attempt."""
PER_MAIL = (Step.MAIL, Step.RCPT, Step.DATA, Step.BODY, Step.DOT)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2 * PATIENCE_S),
    pytest.mark.django_db(transaction=True),
]


def storm() -> Script:
    """Return faults of every kind at every step that a mail without TLS and AUTH has."""
    unheard = {fault: odds for fault, odds in ODDS.items() if fault in SILENT}
    at_quit = dict.fromkeys(ODDS, 0.1)  # there are few farewells
    script: dict[str, dict[str, float]] = dict.fromkeys((*PER_MAIL, Step.BANNER, Step.EHLO), ODDS)
    script |= {Step.ACCEPTED: unheard, Step.QUIT: at_quit}
    return {
        step: [{"fault": fault, "probability": odds} for fault, odds in faults.items()]
        for step, faults in script.items()
    }


@contextmanager
def workers(env: dict[str, str], port: int) -> Iterator[None]:
    """Run two impatient workers whose mailer is at this port."""
    options = {"host": "127.0.0.1", "port": port, "timeout": 2}
    mailer = {"BACKEND": "pillarbox.backends.smtp.EmailBackend", "OPTIONS": options}
    pillarbox = {
        "ENGINE": "worker",
        "MAILERS": {"smtp": mailer},
        "STREAMS": {"default": {"mailers": ["smtp"]}},
    }
    settings = with_settings(env, REMOVE=["MAILERS"], PILLARBOX=pillarbox)
    with ExitStack() as started:
        for _ in range(WORKERS):
            started.enter_context(running(["-m", "tests.support.impatient_worker"], settings))
        yield


def enqueue(count: int) -> None:
    """Queue mails, every other one under ``hold``."""

    def mails() -> Iterator[EmailMessage]:
        for number in range(count):
            mail = EmailMessage(
                f"n{number}", "It gets there.\n" * 80, to=[f"u{number}@example.org"]
            )
            mail.pillarbox = {"in_doubt": "hold" if number % 2 else "resend"}  # type: ignore[attr-defined]
            yield mail

    assert send_emails(mails()) == count


def blow_over(count: int) -> None:
    """Wait until every mail is finished or in doubt."""
    moving = Message.objects.filter(state__in=[State.QUEUED, State.SENDING])
    wait_for(lambda: not moving.exists(), timeout_s=PATIENCE_S)
    assert Message.objects.count() == count


def assert_honest(found: Audit) -> None:
    """Nothing lost, nothing twice under hold, nothing denied; and nothing charged to no one."""
    assert found.breaches == {}
    doubtful = Attempt.objects.filter(result=Attempt.Result.IN_DOUBT)
    assert len(found.twice_under_resend) <= doubtful.filter(message__in_doubt="resend").count()
    mailers_fault = Attempt.objects.filter(result=Attempt.Result.MAILER_DOWN)
    assert mailers_fault.exists()
    charged = sum(Message.objects.values_list("attempts", flat=True))
    assert charged == Attempt.objects.count() - mailers_fault.count()


def test_a_storm_of_faults_at_every_step_loses_nothing(process_env: dict[str, str]) -> None:
    with ledger_sink_process(storm(), seed=SEED) as sink, workers(process_env, sink.port):
        enqueue(MAILS)
        blow_over(MAILS)
    found = audit(sink.accepted(), enqueued=MAILS)
    assert_honest(found)
    for step in PER_MAIL:
        assert set(sink.faults(step)) >= {"disconnect", "421", "4xx", "5xx", "garbage", "slow"}
    for step in (Step.BANNER, Step.EHLO, Step.QUIT):
        assert sink.faults(step)
    unheard = sink.faults(Step.ACCEPTED)
    assert 0 < len(found.twice_under_resend) <= unheard.total() - unheard["slow"]
    assert found.states["sent"] > MAILS * 0.7
    assert found.in_doubt


@dataclass(frozen=True)
class Weather:
    """One smtp-sink after another on the same port: its options, and what its dump is worth.

    It dumps a mail before it answers the dot: where that is refused, the dump means nothing.
    """

    options: tuple[str, ...]
    mails: int
    takes: bool = True
    until: str = "mailer_down"
    """It lasts until there has been an attempt with this result, however slow the machine."""


def forecast() -> list[Weather]:
    """Return weather of every kind that Postfix's sink can make; the last is fine.

    What refuses for good comes first and with few mails, or there would be none for the others.
    """
    for_good = [
        Weather(("-f", "RCPT"), 10, until="failed"),
        Weather(("-f", "."), 10, takes=False, until="failed"),
        Weather(("-A", "0"), 10, until="failed"),
    ]
    steps = ("CONNECT", "MAIL", "RCPT", "DATA")
    few = MAILS // 25
    passing = [Weather((how, step), few) for how in ("-q", "-Q", "-r") for step in steps]
    passing += [Weather(("-q", "EHLO"), few), Weather(("-q", "."), few, until="in_doubt")]
    passing += [Weather(("-Q", "."), few, takes=False), Weather(("-r", "."), few, takes=False)]
    passing += [Weather(("-W", ".:1:50"), few), Weather(("-W", "RCPT:3"), few)]
    return [*for_good, *passing, Weather((), 5 * few)]


@contextmanager
def smtp_sink(port: int, folder: Path, weather: Weather) -> Iterator[None]:
    """Run Postfix's sink while the block lasts, then kill it in the middle of whatever it does."""
    assert SMTP_SINK is not None
    folder.mkdir()
    user = ["-u", "root"] if os.geteuid() == 0 else []
    command = [SMTP_SINK, *user, *weather.options, "-d", "mail.", f"127.0.0.1:{port}", "100"]
    with subprocess.Popen(command, cwd=folder) as process:
        try:
            wait_for_port(port)
            yield
        finally:
            process.kill()


def dumped(folder: Path) -> Counter[str]:
    """Return the Message-IDs of the whole mails in a dump: those end with an empty line."""
    texts = [path.read_text() for path in folder.iterdir()]
    ids = [re.search(r"^Message-ID:\s*(\S+)", text, re.M) for text in texts if text[-2:] == "\n\n"]
    return Counter(found[1] for found in ids if found)


@pytest.mark.service("smtp-sink")
def test_a_storm_at_postfixs_sink_loses_nothing(
    process_env: dict[str, str], tmp_path: Path
) -> None:
    port, weathers = free_port(), forecast()
    accepted: Counter[str] = Counter()
    with workers(process_env, port):
        for number, weather in enumerate(weathers):
            folder = tmp_path / f"{number}"
            with smtp_sink(port, folder, weather):
                enqueue(weather.mails)
                if weather.options:
                    time.sleep(LULL_S)
                    seen = Attempt.objects.filter(result=weather.until)
                    wait_for(seen.exists, timeout_s=PATIENCE_S)
                else:
                    blow_over(sum(each.mails for each in weathers))
            if weather.takes:
                accepted += dumped(folder)
    found = audit(accepted, enqueued=sum(weather.mails for weather in weathers))
    assert_honest(found)
    results = Attempt.objects.values_list("result", flat=True).distinct().order_by()
    assert set(results) >= {"sent", "retry", "failed", "mailer_down", "in_doubt"}
    # How many meet the sink that answers no dot is a matter of speed; half of those stay in doubt.
    assert found.states["sent"] >= weathers[-1].mails
    assert found.in_doubt, found.states
