"""Commits that take place and whose answer never comes, on any database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from django.db import OperationalError

from pillarbox.delivery import database


@contextmanager
def unheard() -> Iterator[None]:
    """Let every transaction of a worker commit in this block, and then lose its connection."""
    run = database.run

    def run_unheard(using: str, work: Callable[[], Any]) -> Any:
        run(using, work)
        database.discard(using)
        raise OperationalError("server closed the connection unexpectedly")

    with mock.patch.object(database, "run", run_unheard):
        yield
