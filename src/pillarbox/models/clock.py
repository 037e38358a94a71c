"""The clock in UTC: the database's, as an expression, and the host's for what a caller computes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connections
from django.db.models import DateTimeField, Func

frozen_at: datetime | None = None
"""Set by ``pillarbox.testing`` alone: every reading of the clock then gives this moment."""


def host_now() -> datetime:
    """Return the present moment by this host's clock: where no query is to be made for it.

    Never compared with what another host wrote.
    """
    return frozen_at if frozen_at is not None else datetime.now(UTC)


_NOW = {
    "postgresql": "STATEMENT_TIMESTAMP()",
    "mysql": "UTC_TIMESTAMP(6)",
    # SQLite's clock has milliseconds; Django's text form has six digits, and compares as text.
    "sqlite": "(STRFTIME('%%Y-%%m-%%d %%H:%%M:%%f', 'now') || '000')",
}


def now_sql(vendor: str) -> str:
    """Return the moment a statement starts, in UTC, as SQL for a statement with parameters.

    Whoever writes it cares for a frozen clock; `DatabaseNow` does. Raise KeyError for a database
    that is not supported.
    """
    return _NOW[vendor]


class DatabaseNow(Func):
    """The moment a statement starts, in UTC, shifted by ``offset``.

    Django's own ``Now()`` is hours off on MySQL and MariaDB wherever the server's zone is not
    UTC, because Django sets no session time zone there.
    """

    output_field = DateTimeField()
    arity = 0
    allowed_default = True

    def __init__(self, offset: timedelta = timedelta(0)) -> None:
        super().__init__()
        self.offset = offset

    def _frozen_sql(self, connection: Any) -> tuple[str, list[Any]]:
        assert frozen_at is not None
        moment = connection.ops.adapt_datetimefield_value(frozen_at + self.offset)
        cast = "%s::timestamptz" if connection.vendor == "postgresql" else "%s"
        return cast, [moment]

    def as_sql(  # type: ignore[override]
        self, compiler: Any, connection: Any, **_: Any
    ) -> tuple[str, list[Any]]:
        """Write the expression for PostgreSQL, the dialect that the others depart from."""
        if frozen_at is not None:
            return self._frozen_sql(connection)
        if not self.offset:
            return _NOW["postgresql"], []
        return "(STATEMENT_TIMESTAMP() + %s)", [self.offset]

    def as_mysql(self, compiler: Any, connection: Any, **_: Any) -> tuple[str, list[Any]]:
        """Write the expression for MySQL and MariaDB."""
        if frozen_at is not None:
            return self._frozen_sql(connection)
        if not self.offset:
            return _NOW["mysql"], []
        micros = round(self.offset.total_seconds() * 1_000_000)
        return "DATE_ADD(UTC_TIMESTAMP(6), INTERVAL %s MICROSECOND)", [micros]

    def as_sqlite(  # type: ignore[override]
        self, compiler: Any, connection: Any, **_: Any
    ) -> tuple[str, list[Any]]:
        """Write the expression for SQLite, in the text form in which Django keeps datetimes."""
        if frozen_at is not None:
            return self._frozen_sql(connection)
        if not self.offset:
            return _NOW["sqlite"], []
        shift = f"{self.offset.total_seconds():+.3f} seconds"
        return "(STRFTIME('%%Y-%%m-%%d %%H:%%M:%%f', 'now', %s) || '000')", [shift]


_READ = {
    "postgresql": "SELECT STATEMENT_TIMESTAMP()",
    "mysql": "SELECT UTC_TIMESTAMP(6)",
    "sqlite": "SELECT STRFTIME('%Y-%m-%d %H:%M:%f', 'now')",
}


def database_now(using: str) -> datetime:
    """Return the present moment by the clock of the database ``using``."""
    if frozen_at is not None:
        return frozen_at
    connection = connections[using]
    with connection.cursor() as cursor:
        cursor.execute(_READ[connection.vendor])
        (moment,) = cursor.fetchone()
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    read: datetime = moment
    return read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)
