"""Gives the tree of an older version this version's schema, and leaves its models as they are.

``python -m tests.support.newest_schema TREE`` writes a migration of bare SQL into the tree for each
one that it lacks. So the old code's suite runs on what the new code's ``migrate`` makes of a
database: that is where old workers stand during a deploy.
"""

from __future__ import annotations

import sys
from pathlib import Path

import django
from django.db import connection
from django.db.migrations.loader import MigrationLoader

import pillarbox.migrations
from tests.support.migrations import APP, NOTE

_STUB = '''"""What the newest version does to the schema; nothing here knows of it."""

from django.db import migrations


class Migration(migrations.Migration):
    {note} = "The newest version's own tests judge it."
    dependencies = {dependencies!r}
    operations = [migrations.RunSQL({statements!r})]
'''


def give(tree: Path) -> list[str]:
    """Write what the tree lacks and return the names. Exit where a migration of its is no more."""
    old = tree / "src/pillarbox/migrations"
    new = Path(pillarbox.migrations.__path__[0])
    for file in sorted(old.glob("0*.py")):
        if not (new / file.name).exists() or (new / file.name).read_text() != file.read_text():
            sys.exit(f"{file.name} was released and has changed: stack migrations, never squash.")
    loader = MigrationLoader(None)
    (leaf,) = loader.graph.leaf_nodes(APP)
    plan = [name for app, name in loader.graph.forwards_plan(leaf) if app == APP]
    lacking = [name for name in plan if not (old / f"{name}.py").exists()]
    for name in lacking:
        (old / f"{name}.py").write_text(_stub(loader, name))
    return lacking


def _stub(loader: MigrationLoader, name: str) -> str:
    migration = loader.get_migration(APP, name)
    state = loader.project_state((APP, name), at_end=False)
    with connection.schema_editor(collect_sql=True, atomic=migration.atomic) as editor:
        migration.apply(state, editor, collect_sql=True)
    statements = [line for line in editor.collected_sql if not line.startswith("--")]
    return _STUB.format(note=NOTE, dependencies=migration.dependencies, statements=statements)


if __name__ == "__main__":
    django.setup()
    print("Migrations given to the old tree:", ", ".join(give(Path(sys.argv[1]))) or "none")
