"""How PostgreSQL is to store a table, which Django's fields have no word for; for migrations."""

from __future__ import annotations

from typing import Any

from django.db.migrations.operations.base import Operation


class StoreForUpdates(Operation):
    """Have PostgreSQL fill a table's pages to 70 % and compress a column by lz4 where it has that.

    A message's row is written anew with each of its states: with room beside it most begins
    write into no index, and lz4 takes the server less time than its own way of compressing.
    Other databases are left as they are.
    """

    reversible = True
    reduces_to_sql = True

    def __init__(self, model_name: str, column: str) -> None:
        self.model_name = model_name
        self.column = column

    def state_forwards(self, app_label: str, state: Any) -> None:
        """Leave Django's picture of the models alone."""

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        """Leave room in the pages to be filled, and choose lz4."""
        self._alter(app_label, schema_editor, to_state, "SET (fillfactor = 70)", "lz4")

    def database_backwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        """Leave it to the database again; rows stay as they are until they are written anew."""
        self._alter(app_label, schema_editor, to_state, "RESET (fillfactor)", "default")

    def _alter(
        self, app_label: str, schema_editor: Any, state: Any, change: str, compression: str
    ) -> None:
        connection = schema_editor.connection
        model = state.apps.get_model(app_label, self.model_name)
        if connection.vendor != "postgresql" or not self.allow_migrate_model(
            connection.alias, model
        ):
            return
        quote = connection.ops.quote_name
        table, column = quote(model._meta.db_table), quote(self.column)
        schema_editor.execute(f"ALTER TABLE {table} {change}")
        compress = f"ALTER TABLE {table} ALTER COLUMN {column} SET COMPRESSION {compression}"
        schema_editor.execute(_WHERE_LZ4.format(schema_editor.quote_value(compress)), params=None)

    def describe(self) -> str:
        """Say it in a line, as `migrate` and `sqlmigrate` do."""
        return f"Store {self.model_name} for rows that are written anew"


# PostgreSQL has it from version 14 on, where it was built with it.
_WHERE_LZ4 = """DO $$ BEGIN
    IF EXISTS (
        SELECT FROM pg_settings
        WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)
    ) THEN
        EXECUTE {};
    END IF;
END $$"""
