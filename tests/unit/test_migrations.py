"""Old workers run beside the new ones during a deploy: every migration lets them."""

from __future__ import annotations

import re

import pytest
from django.db import IntegrityError, connection, models
from django.db.migrations import Migration, operations
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState

from pillarbox import send_email
from pillarbox.models import Message
from pillarbox.models.indexes import UniqueWhereGiven
from pillarbox.models.storage import StoreForUpdates
from tests.support.migrations import APP, NOTE, objections
from tests.support.tutorial import ROOT
from tests.support.vendors import only_on_postgresql

CHANGELOG = ROOT / "CHANGELOG.md"


def loaded() -> MigrationLoader:
    """Return the migrations as they stand in the files."""
    return MigrationLoader(None)


def names() -> list[str]:
    """Return the names of ours, the first one first."""
    loader = loaded()
    (leaf,) = loader.graph.leaf_nodes(APP)
    return [name for app, name in loader.graph.forwards_plan(leaf) if app == APP]


def state_before(name: str) -> ProjectState:
    """Return the models as the migrations before this one leave them."""
    return loaded().project_state((APP, name), at_end=False)


def test_there_is_one_migration_until_the_first_release_and_they_are_stacked_from_then_on() -> None:
    ours = names()
    assert ours[0] == "0001_initial"
    assert [name[:4] for name in ours] == [f"{n:04}" for n in range(1, len(ours) + 1)]
    released = re.findall(r"^## \d+\.\d+\S*", CHANGELOG.read_text(), re.MULTILINE)
    assert released or ours == ["0001_initial"], "nothing is released: regenerate the first one"


def test_the_version_before_can_live_with_every_migration() -> None:
    loader = loaded()
    found = {
        name: objections(loader.get_migration(APP, name), state_before(name))
        for name in names()[1:]
    }
    assert not any(found.values()), found


def migration(*what: Operation) -> Migration:
    """Return one that comes after all of ours."""

    class Next(Migration):
        operations = list(what)

    return Next("9999_next", APP)


def judged(*what: Operation) -> list[str]:
    """Return the objections to a migration that comes after all of ours."""
    return objections(migration(*what), loaded().project_state())


def add(name: str, field: models.Field) -> operations.AddField:
    return operations.AddField("message", name, field)


def alter(name: str, field: models.Field) -> operations.AlterField:
    return operations.AlterField("message", name, field)


def reference(*, db_constraint: bool = True) -> models.ForeignKey:
    return models.ForeignKey("pillarbox.message", models.CASCADE, db_constraint=db_constraint)


@pytest.mark.parametrize(
    "operation",
    [
        pytest.param(add("note", models.TextField(null=True)), id="a nullable column"),
        pytest.param(add("note", models.TextField(db_default="")), id="a default of the database"),
        pytest.param(alter("mailer", models.CharField(max_length=99)), id="a longer column"),
        pytest.param(alter("date", models.DateTimeField(null=True)), id="NULL is allowed now"),
        pytest.param(
            operations.AddIndex("message", models.Index(fields=["mailer"], name="by_mailer")),
            id="an index",
        ),
        pytest.param(
            operations.CreateModel("Note", [("id", models.BigAutoField(primary_key=True))]),
            id="a table",
        ),
        pytest.param(
            operations.CreateModel(
                "Note",
                [
                    ("id", models.BigAutoField(primary_key=True)),
                    ("message", reference(db_constraint=False)),
                ],
            ),
            id="a table with a reference that the database does not check",
        ),
    ],
)
def test_old_code_can_live_with(operation: Operation) -> None:
    assert judged(operation) == []


TAKES_AWAY_OR_DEMANDS = [
    pytest.param(add("note", models.TextField(default="")), id="a default of the code alone"),
    pytest.param(add("key", models.TextField(db_default="", unique=True)), id="a unique default"),
    pytest.param(
        add("copies", models.ManyToManyField("pillarbox.attachment")), id="a many-to-many table"
    ),
    pytest.param(alter("mailer", models.CharField(max_length=9)), id="a shorter column"),
    pytest.param(alter("expires_at", models.DateTimeField()), id="NULL is forbidden now"),
    pytest.param(alter("subject", models.TextField()), id="another type"),
    pytest.param(
        alter("message_id", models.CharField(max_length=255, unique=True)), id="unique now"
    ),
    pytest.param(operations.RemoveField("message", "subject"), id="a column less"),
    pytest.param(operations.RenameField("message", "subject", "title"), id="a column renamed"),
    pytest.param(operations.DeleteModel("Pause"), id="a table less"),
    pytest.param(operations.RenameModel("Pause", "Rest"), id="a table renamed"),
    pytest.param(
        operations.AddConstraint(
            "message", models.UniqueConstraint(fields=["message_id"], name="one_of_each")
        ),
        id="a constraint",
    ),
    pytest.param(operations.RunSQL("DROP TABLE pillarbox_message"), id="SQL"),
    pytest.param(
        operations.CreateModel(
            "Note", [("id", models.BigAutoField(primary_key=True)), ("message", reference())]
        ),
        id="a table whose reference the database checks",
    ),
]


@pytest.mark.parametrize("operation", TAKES_AWAY_OR_DEMANDS)
def test_old_code_cannot_live_with(operation: Operation) -> None:
    assert len(judged(operation)) == 1


def test_a_note_says_why_the_version_before_can_live_with_it_all_the_same() -> None:
    one = migration(operations.RemoveField("message", "subject"))
    setattr(one, NOTE, "Neither read nor written since 1.2.")
    assert objections(one, loaded().project_state()) == []


def test_each_operation_is_judged_by_what_those_before_it_have_made() -> None:
    note = models.CharField(max_length=10, null=True)
    longer = models.CharField(max_length=20, null=True)
    assert judged(add("note", note), alter("note", longer)) == []
    assert judged(add("note", longer), alter("note", note)) != []


@pytest.mark.django_db(transaction=True)
def test_how_messages_are_stored_can_be_taken_back_on_any_database() -> None:
    models_now = loaded().project_state()
    store = StoreForUpdates("message", "content")
    made = storage()
    with connection.schema_editor() as editor:
        store.database_backwards(APP, editor, models_now, models_now)
    try:
        assert storage() == ("", False)
        send_email("s", "b", ["ada@example.org"])
    finally:
        with connection.schema_editor() as editor:
            store.database_forwards(APP, editor, models_now, models_now)
    assert storage() == made


@pytest.mark.django_db(transaction=True)
def test_a_missing_idempotency_key_has_no_entry_in_the_index_where_that_can_be() -> None:
    with connection.cursor() as cursor:
        found = connection.introspection.get_constraints(cursor, Message._meta.db_table)
    (name,) = [name for name, it in found.items() if it["columns"] == ["idempotency_key"]]
    assert found[name]["unique"]
    assert is_partial(name) == connection.features.supports_partial_indexes


@pytest.mark.django_db(transaction=True)
def test_a_unique_key_can_be_taken_away_and_brought_back() -> None:
    key = UniqueWhereGiven(fields=("fingerprint",), name="pillarbox_one_fingerprint")
    before = loaded().project_state()
    after = before.clone()
    add_it = operations.AddConstraint("message", key)
    add_it.state_forwards(APP, after)
    with connection.schema_editor() as editor:
        add_it.database_forwards(APP, editor, before, after)
    try:
        send_email("s", "b", ["ada@example.org"])
        with pytest.raises(IntegrityError):
            send_email("s", "b", ["ada@example.org"])
    finally:
        Message.objects.all().delete()
        with connection.schema_editor() as editor:
            add_it.database_backwards(APP, editor, after, before)
    send_email("s", "b", ["ada@example.org"])
    send_email("s", "b", ["ada@example.org"])


def is_partial(index: str) -> bool:
    """Whether an index leaves rows out."""
    tables = {
        "postgresql": "SELECT indexdef FROM pg_indexes WHERE indexname = %s",
        "sqlite": "SELECT sql FROM sqlite_master WHERE name = %s",
    }
    if connection.vendor not in tables:
        return False
    with connection.cursor() as cursor:
        cursor.execute(tables[connection.vendor], [index])
        (sql,) = cursor.fetchone()
    return "IS NOT NULL" in sql


@only_on_postgresql("others are left as they are")
@pytest.mark.django_db(transaction=True)
def test_postgresql_compresses_content_by_lz4_where_it_has_that_and_leaves_room() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT 'lz4' = ANY(enumvals) FROM pg_settings WHERE name = %s",
            ["default_toast_compression"],
        )
        (has_lz4,) = cursor.fetchone()
    assert storage() == ("l" if has_lz4 else "", True)


def storage() -> tuple[str, bool]:
    """Return how PostgreSQL compresses content, and whether it leaves room in the pages."""
    if connection.vendor != "postgresql":
        return "", False
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT attcompression, coalesce(reloptions::text LIKE %s, FALSE)"
            " FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid"
            " WHERE attrelid = %s::regclass AND attname = 'content'",
            ["%fillfactor%", Message._meta.db_table],
        )
        compression, has_room = cursor.fetchone()
    return str(compression), bool(has_room)
