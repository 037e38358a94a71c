"""A time without a database: told once when it begins and once when it ends, waited out between."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from django.db import DatabaseError, InterfaceError, OperationalError

from pillarbox.delivery import database

logger = logging.getLogger("pillarbox.delivery")

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 2.0
"""The pauses between tries: 0.2 s, 0.4, 0.8, 1.6, then every 2 s."""
FAULT_PATIENCE_S = 10.0
"""How long an error is borne that does not look as if waiting would mend it."""

_SQLITE_ERROR = 1  # "no such table", "no such column": SQLite has no code of their own for them
_MYSQL_NO_COLUMN = 1054


class Outage:
    """What a drain knows of its database's absence. ``wait`` waits for that many seconds."""

    def __init__(self, using: str, wait: Callable[[float], object]) -> None:
        self._using = using
        self._wait = wait
        self._since: float | None = None
        self._pause_s = FIRST_PAUSE_S

    @property
    def is_on(self) -> bool:
        """Whether the last try failed."""
        return self._since is not None

    @property
    def lasts_s(self) -> float:
        """For how long; 0 where there is none."""
        return 0.0 if self._since is None else time.monotonic() - self._since

    def bear(self, error: Exception) -> None:
        """Discard the connection and wait a little. Raise ``error`` if waiting mends nothing.

        A lost connection is borne for as long as the caller likes; an error of another kind, as
        where a migration is missing, for 10 s.
        """
        if self._since is None:
            self._since = time.monotonic()
            logger.warning("The database does not answer (%s): sending waits.", _in_short(error))
        elif not _is_lost_connection(error) and self.lasts_s > FAULT_PATIENCE_S:
            raise error
        database.discard(self._using)
        self._wait(self._pause_s)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def end(self) -> None:
        """Say that the database is back, where it was away."""
        if self._since is None:
            return
        logger.warning("The database answers again after %.1f s.", self.lasts_s)
        self._since, self._pause_s = None, FIRST_PAUSE_S


def safely(using: str, work: Callable[[], object]) -> bool:
    """Do something that may fail for want of a database, and return whether it did not.

    For what others make up for where it stays undone: it must not hide what the caller holds.
    """
    try:
        work()
    except (DatabaseError, InterfaceError) as error:
        logger.warning("Left undone for want of a database: %s", _in_short(error))
        database.discard(using)
        return False
    return True


def _is_lost_connection(error: Exception) -> bool:
    """Whether waiting may mend it. Of a schema that is not as it should be it does not.

    PostgreSQL's drivers have another class for that.
    """
    is_of_schema = (
        getattr(error.__cause__, "sqlite_errorcode", None) == _SQLITE_ERROR
        or database.number_of(error) == _MYSQL_NO_COLUMN
    )
    return _is_operational(error) and not is_of_schema


def _is_operational(error: Exception) -> bool:
    return isinstance(error, OperationalError | InterfaceError)


def _in_short(error: Exception) -> str:
    """Return the class, and the first line where no row's values can stand in it."""
    name = type(error).__name__
    lines = str(error).splitlines()
    return f"{name}: {lines[0]}" if lines and _is_operational(error) else name
