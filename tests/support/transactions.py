"""Transactions that end as a test wants them, and others beside them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from django.db import connections, transaction

from pillarbox.models import Message


@contextmanager
def rolled_back(using: str = "default") -> Iterator[None]:
    """A transaction, or within one a savepoint, that ends in an error."""
    with suppress(ZeroDivisionError), transaction.atomic(using=using):
        yield
        raise ZeroDivisionError


def in_thread(work: Callable[[], Any]) -> threading.Thread:
    """Run ``work`` on a connection of its own."""

    def run() -> None:
        try:
            work()
        finally:
            connections.close_all()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


@contextmanager
def row_locked(pk: int) -> Iterator[None]:
    """Have another's transaction lock a message's row while the block lasts."""
    locked, let_go = threading.Event(), threading.Event()

    def lock() -> None:
        with transaction.atomic():
            Message.objects.select_for_update().get(pk=pk)
            locked.set()
            let_go.wait(10)

    thread = in_thread(lock)
    assert locked.wait(10)
    try:
        yield
    finally:
        let_go.set()
        thread.join()
