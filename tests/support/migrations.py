"""Judges a migration by whether the version before it can go on working beside the new one.

During a deploy the old code runs on the new schema: its INSERTs name no new column, its SELECTs
name every old one, and its DELETEs know of no new table.
"""

from __future__ import annotations

from collections.abc import Iterator

from django.db import models
from django.db.migrations import Migration, operations
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState
from django.db.models import NOT_PROVIDED, Field
from django.db.models.fields.related import ManyToManyField, RelatedField

APP = "pillarbox"
NOTE = "beside_the_old"
"""The attribute of a migration that says why the version before can live with it all the same."""

_HARMLESS = (
    operations.AddIndex,
    operations.AlterModelManagers,
    operations.AlterModelOptions,
    operations.RemoveConstraint,
    operations.RemoveIndex,
    operations.RenameIndex,
)


def objections(migration: Migration, before: ProjectState) -> list[str]:
    """Return what the version before could not live with; a migration with a note has none."""
    if getattr(migration, NOTE, ""):
        return []
    state, found = before.clone(), []
    for operation in migration.operations:
        found += [f"{operation.describe()}: {why}" for why in _objections(operation, state)]
        operation.state_forwards(APP, state)
    return found


def _objections(operation: Operation, state: ProjectState) -> Iterator[str]:
    if isinstance(operation, operations.AddField):
        yield from _to_column(operation.field)
    elif isinstance(operation, operations.AlterField):
        old = state.models[APP, operation.model_name_lower].get_field(operation.name)
        yield from _to_change(old, operation.field)
    elif isinstance(operation, operations.CreateModel):
        for _, field in operation.fields:
            yield from _to_reference(field)
    elif not isinstance(operation, _HARMLESS):
        yield "the old code may need what it takes away, or break what it demands"


def _to_column(field: Field) -> Iterator[str]:
    if isinstance(field, ManyToManyField):
        yield "the old code deletes rows that the new table still names"
        return
    if not field.null and field.db_default is NOT_PROVIDED:
        yield "an INSERT of the old code names no value: give it a db_default, or null=True"
    if field.unique and not field.null:
        yield "two INSERTs of the old code have the same value"
    yield from _to_reference(field)


def _to_reference(field: Field) -> Iterator[str]:
    if isinstance(field, RelatedField) and getattr(field, "db_constraint", False):
        yield "the old code deletes rows that the new table still names: db_constraint=False"


def _to_change(old: Field, new: Field) -> Iterator[str]:
    if old.get_internal_type() != new.get_internal_type() or old.db_column != new.db_column:
        yield "another type, or another name in the database"
    if old.null and not new.null:
        yield "the old code writes NULL"
    if _length(new) < _length(old):
        yield "the old code writes longer values"
    if new.unique and not old.unique:
        yield "the old code writes a value twice"
    if old.db_default is not NOT_PROVIDED and new.db_default is NOT_PROVIDED:
        yield "the old code may rely on the db_default"


def _length(field: models.Field) -> float:
    return field.max_length if field.max_length is not None else float("inf")
