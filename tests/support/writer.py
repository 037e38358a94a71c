"""Queues mail after mail, as a web process does, and measures what each call costs.

``python -m tests.support.writer COUNT PAUSE_S`` prints a report in JSON at its end.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import django

from tests.support.processes import Worker, running, with_settings


@dataclasses.dataclass
class Report:
    """What a writer has queued: ids, the calls that failed, and the slowest in seconds.

    ``slowest_wake_s`` is the part of a call that is spent with the broker.
    """

    message_ids: list[str]
    failed: list[str]
    slowest_call_s: float
    slowest_wake_s: float


@contextmanager
def writing(
    env: Mapping[str, str], settings: Mapping[str, Any], count: int, *, pause_s: float
) -> Iterator[Worker]:
    """Run a writer while the block lasts; `report` waits for its end."""
    command = ["-m", "tests.support.writer", str(count), str(pause_s)]
    with running(command, with_settings(env, **settings), ready="writes") as writer:
        yield writer


def report(writer: Worker, *, timeout_s: float = 90) -> Report:
    """Wait for the end of a writer and return what it has to say."""
    return Report(**json.loads(writer.ended(timeout_s=timeout_s).splitlines()[-1]))


def write(count: int, pause_s: float) -> Report:
    """Queue that many mails, each in a transaction of its own."""
    from pillarbox.engines import async_task, coalesce

    wakes = [0.0]

    def timed(path: str) -> None:
        started = time.monotonic()
        try:
            async_task(path)
        finally:
            wakes.append(time.monotonic() - started)

    with mock.patch.object(coalesce, "async_task", timed):
        done = _write(count, pause_s)
    return dataclasses.replace(done, slowest_wake_s=max(wakes))


def _write(count: int, pause_s: float) -> Report:
    from pillarbox import send_email

    done = Report([], [], 0.0, 0.0)
    for n in range(count):
        started = time.monotonic()
        try:
            mail = send_email(f"Hello {n}", "It gets there.", [f"u{n}@example.org"])
            done.message_ids.append(mail.message_id)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test is to see it
            done.failed.append(repr(error))
        done.slowest_call_s = max(done.slowest_call_s, time.monotonic() - started)
        time.sleep(pause_s)
    return done


if __name__ == "__main__":
    django.setup()
    print("It writes.", flush=True)
    print(json.dumps(dataclasses.asdict(write(int(sys.argv[1]), float(sys.argv[2])))))
