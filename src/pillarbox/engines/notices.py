"""PostgreSQL's LISTEN and NOTIFY, by which a commit tells every `worker` that there is mail.

The channel is named after the table, by its number: whoever uses the same table uses the same
channel, whatever the ``search_path``. A notice carries no content.
"""

from __future__ import annotations

from typing import Any, Self

from django.db import connections

from pillarbox.models import Message

_CHANNEL = "'pillarbox_' || %s::regclass::oid"


def exist(using: str) -> bool:
    """Whether the database has them."""
    return connections[using].vendor == "postgresql"


def notify(using: str, word: str = "") -> None:
    """Give notice on this thread's connection, at once or when its open transaction commits.

    An empty ``word`` says that there is mail; any other is for the `Ear` that expects it.
    """
    with connections[using].cursor() as cursor:
        cursor.execute(f"SELECT pg_notify({_CHANNEL}, %s)", [_table(using), word])


def _table(using: str) -> str:
    return connections[using].ops.quote_name(Message._meta.db_table)


class Ear:
    """A connection of its own that listens; for the thread that makes it.

    It never comes from a pool, which would give what is heard to somebody else, and it is set up as
    any other of Django's. Raise what Django's ``connect`` raises.
    """

    def __init__(self, using: str) -> None:
        self._own: Any = connections[using].copy()
        self._own.settings_dict["OPTIONS"].pop("pool", None)
        self._own.connect()
        try:
            self._own.set_autocommit(True)
            with self._own.cursor() as cursor:
                cursor.execute(f"SELECT {_CHANNEL}", [_table(using)])
                channel = self._own.ops.quote_name(cursor.fetchone()[0])
                cursor.execute(f"LISTEN {channel}")
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Return the socket, to be waited for."""
        number: int = self._own.connection.fileno()
        return number

    def words(self) -> list[str]:
        """Return what has come, without waiting. Raise DatabaseError if the connection is lost."""
        with self._own.wrap_database_errors:
            raw = self._own.connection
            if not hasattr(raw, "pgconn"):  # psycopg 2
                raw.poll()
                came, raw.notifies[:] = list(raw.notifies), []
                return [notice.payload for notice in came]
            raw.pgconn.consume_input()
            return [notice.extra.decode() for notice in iter(raw.pgconn.notifies, None)]

    def close(self) -> None:
        """Close the connection."""
        self._own.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
