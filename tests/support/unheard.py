"""Commits whose answer never comes, on any database: such as take place and such as do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from django.db import OperationalError, transaction

from pillarbox.delivery import database

LOST = "server closed the connection unexpectedly"
Call = Callable[..., Any]


@contextmanager
def unheard() -> Iterator[None]:
    """Let every commit of a worker take place in this block, and then lose its connection."""

    def lose(call: Call) -> Call:
        def unheard(using: str, *args: Any, **options: Any) -> Any:
            call(using, *args, **options)
            database.discard(using)
            raise OperationalError(LOST)

        return unheard

    with replaced(lose):
        yield


@contextmanager
def uncommitted() -> Iterator[None]:
    """Let none of a worker's commits take place in this block: its connection is lost before."""

    def lose(call: Call) -> Call:
        def uncommitted(using: str, *args: Any, **options: Any) -> Any:
            with transaction.atomic(using=using):
                call(using, *args, **options)
                raise OperationalError(LOST)

        return uncommitted

    with replaced(lose, run=_in_place):
        yield


@contextmanager
def before_commits(reached: Callable[[], object]) -> Iterator[None]:
    """Call something in this block before each commit of a worker, in the same transaction."""

    def reach(call: Call) -> Call:
        def before_commit(using: str, *args: Any, **options: Any) -> Any:
            with transaction.atomic(using=using):
                done = call(using, *args, **options)
                reached()
                return done

        return before_commit

    with replaced(reach, run=_in_place):
        yield


@contextmanager
def replaced(wrap: Callable[[Call], Call], *, run: Call | None = None) -> Iterator[None]:
    """Wrap both ways in which a worker commits; ``run`` may stand for that of several queries."""
    with (
        mock.patch.object(database, "run", wrap(run or database.run)),
        mock.patch.object(database, "execute", wrap(database.execute)),
    ):
        yield


def _in_place(_using: str, work: Callable[[], Any]) -> Any:
    return work()
