"""An index of what has one value in a column, which it leaves out where its condition says it."""

from __future__ import annotations

import copy
from typing import Any

from django.db import models


class PartialIndex(models.Index):
    """An index whose first field its condition sets to a value.

    Where the database has partial indexes it is made without that field. With it, PostgreSQL
    would not find its way: it strikes a condition that the index implies from a query, and then
    has no value for the first column. MariaDB and MySQL ignore the condition and need the field.
    """

    def create_sql(
        self, model: type[models.Model], schema_editor: Any, using: str = "", **kwargs: Any
    ) -> Any:
        """Return the CREATE INDEX for the database."""
        made = self
        if schema_editor.connection.features.supports_partial_indexes:
            made = copy.copy(self)
            made.fields_orders = self.fields_orders[1:]
        return super(PartialIndex, made).create_sql(model, schema_editor, using, **kwargs)
