"""A connection to the database that this process keeps from one drain to the next.

A task queue has Django close a task's connection with the task, where ``CONN_MAX_AGE`` is 0 as by
default. To open a new one takes longer than a mail's whole way through a drain.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.core import mail
from django.db import connections

IDLE_S = 10.0
"""What has rested for longer may be dead without a word, as behind a firewall: it is closed."""
AGE_S = 600
"""As with ``CONN_MAX_AGE``, a connection is replaced at this age."""

_lock = threading.Lock()
_idle: dict[tuple[int, str], tuple[Any, float]] = {}
"""For a process, which must not touch what it has inherited by a fork, and an alias: the
connection, and since when it rests (monotonic)."""


@contextmanager
def kept_connection(using: str) -> Iterator[None]:
    """Put the process's kept connection in the place of this thread's closed one.

    Does nothing where the thread has an open one, where Django keeps or pools connections itself,
    on SQLite, whose connections cost nothing, and under Django's test runner, which could not drop
    its database. A process keeps one for an alias; a second thread's drain at the same time has its
    connection closed at its end.
    """
    own: Any = connections[using]
    if own.connection is not None or not _is_worth_keeping(own):
        yield
        return
    kept = _take(using) or _copy_of(own)
    connections[using] = kept
    try:
        yield
    finally:
        connections[using] = own
        _keep(using, kept)


def close_idle() -> None:
    """Close what this process keeps."""
    with _lock:
        mine = [_idle.pop(key)[0] for key in list(_idle) if key[0] == os.getpid()]
    for connection in mine:
        connection.close()


def _is_worth_keeping(connection: Any) -> bool:
    options = connection.settings_dict.get("OPTIONS", {})
    is_kept = connection.settings_dict["CONN_MAX_AGE"] != 0 or options.get("pool")
    return not is_kept and connection.vendor != "sqlite" and not hasattr(mail, "outbox")


def _copy_of(connection: Any) -> Any:
    """Return a closed connection with the same settings that outlives a task and its thread."""
    made = connection.copy()
    made.settings_dict["CONN_MAX_AGE"] = AGE_S
    made.inc_thread_sharing()
    return made


def _take(using: str) -> Any:
    with _lock:
        connection, since = _idle.pop((os.getpid(), using), (None, 0.0))
    if connection is not None and time.monotonic() > since + IDLE_S:
        connection.close()
    return connection


def _keep(using: str, connection: Any) -> None:
    key = os.getpid(), using
    with _lock:
        is_first = key not in _idle
        if is_first:
            _idle[key] = connection, time.monotonic()
    if not is_first:
        connection.close()
