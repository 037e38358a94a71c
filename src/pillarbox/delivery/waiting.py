"""Has a drain work while PostgreSQL works on its statement; with psycopg 3 alone.

Its connection runs every statement as a generator, which first says that it waits for the answer
once the whole statement has been sent: that is the moment. Source: psycopg's documentation,
``Connection.wait``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

Steps = Generator[Any, Any, Any]


@contextmanager
def busy(connection: Any, meanwhile: Callable[[], None] | None) -> Iterator[None]:
    """Call ``meanwhile`` while the block's first statement runs, if it can be.

    It must raise nothing, and use no connection to the database. A driver that has no such moment
    leaves it undone.
    """
    driver = connection.connection
    wait = getattr(driver, "wait", None)
    if meanwhile is None or wait is None:
        yield
        return
    todo = [meanwhile]

    def wait_busily(steps: Steps, *arguments: Any, **options: Any) -> Any:
        return wait(_after_sending(steps, todo.pop()) if todo else steps, *arguments, **options)

    driver.wait = wait_busily
    try:
        yield
    finally:
        del driver.wait


def _after_sending(steps: Steps, work: Callable[[], None]) -> Steps:
    try:
        state = next(steps)
        work()
        while True:
            state = steps.send((yield state))
    except StopIteration as end:
        return end.value
