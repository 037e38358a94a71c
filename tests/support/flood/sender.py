"""Sends salvos in every way in which a transaction can end; imports Django's parts late."""

from __future__ import annotations

import json
import os
import random
import time
from functools import partial

from tests.support import pipe_engine, processes
from tests.support.flood import (
    OPEN_S,
    PAIRS,
    PAUSE_S,
    QUIET_S,
    SALVOS,
    THREADS,
    WINDOW_S,
    in_threads,
    salvo_file,
)


class RolledBack(Exception):
    """Raised to undo a block."""


def send(sender: str) -> None:
    """Send salvos from many threads and print the names of the mails that were committed."""
    kept: list[str] = []
    took_s = 0.0
    for salvo in range(SALVOS + PAIRS):
        processes.wait_for(salvo_file(salvo).exists, timeout_s=QUIET_S)
        started = time.monotonic()
        if salvo < SALVOS:
            in_threads([partial(_send_in, thread, salvo, kept) for thread in range(THREADS)])
        elif sender == "0":
            kept += _in_a_pair(f"{salvo}", gap_s=WINDOW_S * random.uniform(0.6, 0.98))
        took_s += time.monotonic() - started
        pipe_engine.note(f"sent:{salvo}")
    print(json.dumps({"kept": kept, "took_s": took_s}))


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
