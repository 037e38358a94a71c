"""Column types that behave alike on every database; no policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import models

if TYPE_CHECKING:
    _CharField = models.CharField[Any, Any]
else:
    _CharField = models.CharField


class ExactCharField(_CharField):
    """A string compared byte by byte.

    MySQL and MariaDB compare without case, accents or trailing blanks, so there the column is
    VARBINARY, holding UTF-8; elsewhere the default comparison is exact already.
    """

    def db_type(self, connection: Any) -> str | None:
        """Return VARBINARY, wide enough for ``max_length`` characters, on MySQL and MariaDB."""
        if connection.vendor == "mysql":
            return f"varbinary({4 * (self.max_length or 255)})"
        return super().db_type(connection)

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        """Encode for VARBINARY."""
        value = super().get_db_prep_value(value, connection, prepared)
        if connection.vendor == "mysql" and isinstance(value, str):
            return value.encode()
        return value

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        """Decode from VARBINARY."""
        return value.decode() if isinstance(value, bytes) else value
