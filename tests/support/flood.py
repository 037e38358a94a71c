"""Floods a database with mail from many threads of several processes while drains come and go.

``python -m tests.support.flood`` prints a report in JSON. It makes a database of its own on the
server that PILLARBOX_TEST_DB names, and starts itself again as ``send`` and as ``work``. The flood
comes in salvos, and after each all drains leave: a message that was missed then cannot hide behind
the wakes of later ones. Some salvos are a mere pair of mails, the second within the window in which
its process wakes nobody.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from email import message_from_bytes
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import django

from tests.support import pipe_engine, processes

SALVOS = 12
PAIRS = 12
SENDERS = 3
THREADS = 4
WORKERS = 3
JOBS_AT_ONCE = 3
MAX_DRAINS = 2
PAUSE_S = 0.15
"""The longest pause of a thread between two mails: drains that linger for 100 ms come and go."""
OPEN_S = 0.3
QUIET_S = 60
WINDOW_S = 0.05
"""W, as the design has it: a process wakes once in this time."""


@dataclasses.dataclass
class Report:
    """What a flood has done."""

    kept: int
    wakes_by_senders: int
    wakes_allowed: float
    jobs: int
    failed_jobs: int
    most_drains: int
    stragglers: list[str]
    missing: list[str]
    doubled: list[str]
    unexpected: list[str]


def main(role: str, *arguments: str) -> None:
    """Play one of the three parts."""
    # The settings know the engines by name only, and this takes the place of one of them.
    sys.modules["pillarbox.engines.celery"] = pipe_engine
    django.setup()
    parts: dict[str, Callable[..., None]] = {"coordinate": coordinate, "send": send, "work": work}
    parts[role](*arguments)


# ------------------------------------------------------------------------------------- a sender


class RolledBack(Exception):
    """Raised to undo a block."""


def send(sender: str) -> None:
    """Send salvos from many threads and print the names of the mails that were committed."""
    kept: list[str] = []
    took_s = 0.0
    for salvo in range(SALVOS + PAIRS):
        processes.wait_for(_salvo_file(salvo).exists, timeout_s=QUIET_S)
        started = time.monotonic()
        if salvo < SALVOS:
            in_threads([partial(_send_in, thread, salvo, kept) for thread in range(THREADS)])
        elif sender == "0":
            kept += _in_a_pair(f"{salvo}", gap_s=WINDOW_S * random.uniform(0.6, 0.98))
        took_s += time.monotonic() - started
        pipe_engine.note(f"sent:{salvo}")
    print(json.dumps({"kept": kept, "took_s": took_s}))


def _salvo_file(salvo: int) -> Path:
    """Return the file whose existence lets the senders begin a salvo."""
    return Path(f"{os.environ['FLOOD_NOTES']}.salvo-{salvo}")


def _send_in(thread: int, salvo: int, kept: list[str]) -> None:
    ways = [_singly, _in_a_burst, _in_a_long_transaction, _around_a_lost_savepoint, _in_vain]
    random.shuffle(ways)
    for way in ways:
        time.sleep(random.uniform(0, PAUSE_S))
        kept += way(f"{os.getpid()}-{thread}-{salvo}-{way.__name__}")


def _mail(name: str) -> str:
    from pillarbox import send_email

    send_email(name, "It gets there.", ["ada@example.org"])
    return name


def _singly(name: str) -> list[str]:
    return [_mail(f"{name}-{n}") for n in range(2)]


def _in_a_pair(name: str, gap_s: float) -> list[str]:
    first = _mail(f"{name}-first")
    time.sleep(gap_s)
    return [first, _mail(f"{name}-second")]


def _in_a_burst(name: str) -> list[str]:
    from django.db import transaction

    with transaction.atomic():
        return [_mail(f"{name}-{n}") for n in range(4)]


def _in_a_long_transaction(name: str) -> list[str]:
    """Commit long after a drain could have looked, with ids lower than those already sent."""
    from django.db import connection, transaction

    with transaction.atomic():
        names = [_mail(name)]
        # On SQLite it locks everybody else out.
        time.sleep(OPEN_S / 30 if connection.vendor == "sqlite" else OPEN_S)
    return names


def _around_a_lost_savepoint(name: str) -> list[str]:
    from django.db import transaction

    with transaction.atomic():
        names = [_mail(f"{name}-before")]
        try:
            with transaction.atomic():
                _mail(f"{name}-lost")
                raise RolledBack
        except RolledBack:
            return [*names, _mail(f"{name}-after")]


def _in_vain(name: str) -> list[str]:
    from django.db import transaction

    try:
        with transaction.atomic():
            _mail(name)
            raise RolledBack
    except RolledBack:
        return []


# ------------------------------------------------------------------------------------- a worker


def work() -> None:
    """Run a job for every byte of the pipe, several at once, until a ``q`` comes."""
    in_threads([_work_in_thread] * JOBS_AT_ONCE)


def _work_in_thread() -> None:
    from pillarbox import jobs

    while os.read(int(os.environ["FLOOD_PIPE_END"]), 1) == b"w":
        try:
            jobs.deliver_due()
        except Exception as error:
            pipe_engine.note(f"failed:{type(error).__name__}")
            raise
        finally:
            pipe_engine.note("done")


def in_threads(tasks: list[Callable[[], None]]) -> None:
    """Run each in a thread of its own and wait for all; the threads' connections are closed."""
    from django.db import connections

    def run(task: Callable[[], None]) -> None:
        try:
            task()
        finally:
            connections.close_all()

    threads = [Thread(target=run, args=[task]) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# ------------------------------------------------------------------------------ the coordinator


def coordinate() -> None:
    """Run the flood to its end and print the report."""
    from tests.support.smtp_sink import smtp_sink
    from tests.support.wakes import smtp_settings

    with tempfile.TemporaryDirectory() as folder, smtp_sink() as sink, _database() as name:
        pipe_end, pipe = os.pipe()
        os.environ |= {"FLOOD_NOTES": f"{folder}/notes", "FLOOD_PIPE": str(pipe)}
        os.environ |= {"FLOOD_PIPE_END": str(pipe_end), "PILLARBOX_TEST_DB_NAME": name}
        pillarbox = {"ENGINE": "celery", "MAX_DRAINS": MAX_DRAINS, "CONNECTIONS": 4}
        env = processes.with_settings(os.environ, PILLARBOX=pillarbox, **smtp_settings(sink))
        pipe_engine.note("begun")
        with _watching() as most, ExitStack() as started:
            for _ in range(WORKERS):
                _start(started, ["work"], env, pipe_end, pipe)
            senders = [
                _start(started, ["send", str(n)], env, pipe_end, pipe) for n in range(SENDERS)
            ]
            stragglers = [name for salvo in range(SALVOS + PAIRS) for name in _fire(salvo)]
            told = [json.loads(sender.ended().splitlines()[-1]) for sender in senders]
            os.write(pipe, b"q" * WORKERS * JOBS_AT_ONCE)
        pids = {str(sender.popen.pid) for sender in senders}
        subjects = [str(message_from_bytes(mail.data)["Subject"]) for mail in sink.received]
        report = _report(told, pids, subjects, max(most), stragglers)
    print(json.dumps(dataclasses.asdict(report)))


def _fire(salvo: int) -> list[str]:
    """Let the senders send a salvo and the drains leave; return the mails that were missed."""
    from pillarbox.models import Message, State

    _salvo_file(salvo).touch()
    processes.wait_for(lambda: _counted()[f"sent:{salvo}"] == SENDERS, timeout_s=QUIET_S)
    processes.wait_for(_is_quiet, timeout_s=QUIET_S)
    missed = Message.objects.exclude(state=State.SENT)
    return [f"salvo {salvo}: {one.subject} ({one.state})" for one in missed]


def _start(
    started: ExitStack, arguments: list[str], env: dict[str, str], *descriptors: int
) -> processes.Worker:
    command = ["-m", "tests.support.flood", *arguments]
    return started.enter_context(processes.running(command, env, pass_fds=descriptors))


@contextmanager
def _database() -> Iterator[str]:
    from django.db import connection

    old = connection.settings_dict["NAME"]
    name = connection.creation.create_test_db(verbosity=0, autoclobber=True)
    try:
        yield name
    finally:
        connection.creation.destroy_test_db(old, verbosity=0)


@contextmanager
def _watching() -> Iterator[list[int]]:
    """Note how many slots are taken, again and again, while the block lasts."""
    from pillarbox.models import Drain

    counts, over = [0], Event()

    def watch() -> None:
        while not over.wait(0.01):
            counts.append(Drain.objects.filter(slot__isnull=False).count())

    watcher = Thread(target=in_threads, args=[[watch]])
    watcher.start()
    try:
        yield counts
    finally:
        over.set()
        watcher.join()


def _notes() -> list[list[str]]:
    return [line.split() for line in Path(os.environ["FLOOD_NOTES"]).read_text().splitlines()]


def _counted() -> Counter[str]:
    return Counter(what for what, _, _ in _notes())


def _is_quiet() -> bool:
    """Whether every wake has had its job, and every job has ended."""
    counted = _counted()
    return counted["wake"] == counted["done"]


def _report(
    told: list[dict[str, Any]],
    senders: set[str],
    subjects: list[str],
    most_drains: int,
    stragglers: list[str],
) -> Report:
    notes = _notes()
    kept = {name for one in told for name in one["kept"]}
    came = Counter(subjects)
    return Report(
        kept=len(kept),
        wakes_by_senders=sum(what == "wake" and pid in senders for what, pid, _ in notes),
        # A process may wake at a salvo's start, and then every 50 ms.
        wakes_allowed=sum(one["took_s"] / WINDOW_S + SALVOS + PAIRS for one in told),
        jobs=_counted()["done"],
        failed_jobs=sum(what.startswith("failed") for what, _, _ in notes),
        most_drains=most_drains,
        stragglers=stragglers,
        missing=sorted(kept - set(came)),
        doubled=sorted(name for name, times in came.items() if times > 1),
        unexpected=sorted(set(came) - kept),
    )


if __name__ == "__main__":
    main(*sys.argv[1:] or ["coordinate"])
