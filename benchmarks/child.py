"""The work of a process in a place: ``python -m benchmarks.child VERB …``, its answer in JSON."""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import django

from benchmarks import subjects
from benchmarks.mail import mails
from benchmarks.place import Place
from benchmarks.subjects.base import Subject

WARM_UP = 20
LINGER_S = 0.2
"""Longer than the last mail takes most: the end of a process keeps a core busy, and no site ends
after a mail."""
VERBS = ("prepare", "single", "bulk", "render", "send", "pace", "claim")


def prepare(subject: Subject) -> None:
    """Make the tables."""
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    subject.prepare()


def single(subject: Subject, count: int) -> dict[str, Any]:
    """Queue one mail after the other, each in a transaction of its own."""
    for mail in mails(WARM_UP):
        subject.enqueue(mail)
    todo = list(mails(count))

    def work() -> None:
        for mail in todo:
            subject.enqueue(mail)

    return _timed(work, count)


def bulk(subject: Subject, count: int) -> dict[str, Any]:
    """Queue many at once, in the subject's best way."""
    todo = list(mails(count))
    return _timed(lambda: subject.enqueue_bulk(todo), count)


def render(subject: Subject, count: int) -> dict[str, Any]:
    """Make the wire's bytes of so many messages, which are ready as a worker has decoded them."""
    todo = [mail.pinned_email() for mail in mails(WARM_UP + count)]
    subject.render(todo[:WARM_UP])
    return _timed(lambda: subject.render(todo[WARM_UP:]), count)


def send(subject: Subject, count: int) -> dict[str, Any]:
    """Send so many without a queue: the work of a bare loop."""
    subject.send(count)
    return {}


def pace(subject: Subject, rate: float, count: int, first: int) -> dict[str, Any]:
    """Queue so many a second; return when each was committed, by its recipient."""
    from django.db import transaction

    committed: dict[str, float] = {}

    def note(recipient: str) -> None:
        committed[recipient] = time.monotonic()

    start = time.monotonic() + 0.1
    for number, mail in enumerate(mails(count, first=first)):
        time.sleep(max(0.0, start + number / rate - time.monotonic()))
        with transaction.atomic():
            # The first hook of the transaction: no other's work comes before it.
            transaction.on_commit(partial(note, mail.recipient))
            subject.enqueue(mail)
    time.sleep(LINGER_S)
    return {"committed": committed}


def claim(subject: Subject) -> dict[str, Any]:
    """Claim a batch and give it back, some times; return how long one claim takes."""
    return {"claim_ms": subject.claim_ms()}


def _timed(work: Callable[[], None], count: int) -> dict[str, Any]:
    cpu, start = time.process_time(), time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    return {
        "per_s": count / seconds,
        "client_cpu_s_per_1000": (time.process_time() - cpu) / count * 1000,
        "client_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """Do what the command line says in the place that the environment says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.child")
    parser.add_argument("verb", choices=VERBS)
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    django.setup()
    subject = subjects.find(Place.from_environment().subject)
    answer: Any = None
    if options.verb == "prepare":
        prepare(subject)
    elif options.verb == "claim":
        answer = claim(subject)
    elif options.verb == "pace":
        answer = pace(subject, options.rate, options.count, options.first)
    else:
        verbs = {"single": single, "bulk": bulk, "render": render, "send": send}
        answer = verbs[options.verb](subject, options.count)
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
