"""Indexes that are smaller where the database makes use of that, and how to ask by them."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any, Self

from django.db import models
from django.db.models import Q

from pillarbox.models.states import State


def in_states(states: Collection[State]) -> Q:
    """Return the condition that a message is in one of ``states``, in words that find it.

    What is queued has indexes of its own, and PostgreSQL takes no list apart.
    """
    rest = Q(state__in=[state for state in states if state != State.QUEUED])
    return rest | Q(state=State.QUEUED) if State.QUEUED in states else rest


class _IndexByDatabase(models.Index):
    """An index that is made otherwise on some databases; Django knows one alone."""

    def create_sql(
        self, model: type[models.Model], schema_editor: Any, using: str = "", **kwargs: Any
    ) -> Any:
        """Return the CREATE INDEX for the database."""
        made = self._made(schema_editor.connection)
        return super(_IndexByDatabase, made).create_sql(model, schema_editor, using, **kwargs)

    def _made(self, connection: Any) -> Self:
        """Return the index as the database is to have it: as Django would make it, at first."""
        return self


class PartialIndex(_IndexByDatabase):
    """An index whose first field its condition sets to a value.

    Where the database has partial indexes it is made without that field. With it, PostgreSQL
    would not find its way: it strikes a condition that the index implies from a query, and then
    has no value for the first column. MariaDB and MySQL ignore the condition and need the field.
    """

    def _made(self, connection: Any) -> Self:
        if not connection.features.supports_partial_indexes:
            return self
        made = copy.copy(self)
        made.fields_orders = self.fields_orders[1:]
        return made


class IndexPartialOnPostgreSQL(_IndexByDatabase):
    """An index whose condition PostgreSQL alone is told.

    It knows that what is sent is not queued. SQLite does not, and would use no such index.
    """

    def _made(self, connection: Any) -> Self:
        if connection.vendor == "postgresql":
            return self
        made = copy.copy(self)
        made.condition = None
        return made


class UniqueWhereGiven(models.UniqueConstraint):
    """A nullable column whose values are unique, with nothing in the index for its NULLs.

    They never conflict, and yet PostgreSQL would write an entry for each version of each row, all
    of them alike and therefore all in one place. To Django it is a constraint like any other.
    """

    def constraint_sql(self, model: Any, schema_editor: Any) -> Any:
        """Return nothing, or what stands in the CREATE TABLE."""
        return super(UniqueWhereGiven, self._made(schema_editor)).constraint_sql(
            model, schema_editor
        )

    def create_sql(self, model: Any, schema_editor: Any) -> Any:
        """Return what adds it to a table."""
        return super(UniqueWhereGiven, self._made(schema_editor)).create_sql(model, schema_editor)

    def remove_sql(self, model: Any, schema_editor: Any) -> Any:
        """Return what takes it away."""
        return super(UniqueWhereGiven, self._made(schema_editor)).remove_sql(model, schema_editor)

    def _made(self, schema_editor: Any) -> UniqueWhereGiven:
        """Return it with the condition, of which Django would warn on MariaDB and MySQL."""
        made = copy.copy(self)
        if schema_editor.connection.features.supports_partial_indexes:
            made.condition = Q((f"{self.fields[0]}__isnull", False))
        return made
