"""Makes the database, starts the others, waits for quiet after each salvo, and reports."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from email import message_from_bytes
from pathlib import Path
from threading import Event, Thread
from typing import Any

from tests.support import pipe_engine, processes
from tests.support.databases import own_database
from tests.support.flood import (
    JOBS_AT_ONCE,
    MAX_DRAINS,
    PAIRS,
    QUIET_S,
    SALVOS,
    SENDERS,
    WINDOW_S,
    WORKERS,
    Report,
    in_threads,
    salvo_file,
)


def coordinate() -> None:
    """Run the flood to its end and print the report."""
    from tests.support.smtp_sink import smtp_sink
    from tests.support.wakes import smtp_settings

    with tempfile.TemporaryDirectory() as folder, smtp_sink() as sink, own_database() as name:
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

    salvo_file(salvo).touch()
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
    """Return what is noted so far; of a line that is being written, a part may be seen."""
    whole, _, _ = Path(os.environ["FLOOD_NOTES"]).read_text().rpartition("\n")
    return [line.split() for line in whole.splitlines()]


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
