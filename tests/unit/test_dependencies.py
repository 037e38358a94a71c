"""Django alone is needed: what a database or a queue brings is imported where it is used."""

from __future__ import annotations

import subprocess
import sys

IMPORT_ALL = """
import pkgutil, sys
for name in ("psycopg", "psycopg2", "MySQLdb", "django_q", "celery", "kombu", "redis", "pytest"):
    sys.modules[name] = None  # as if it were not installed

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="x",
    INSTALLED_APPS=[
        *(f"django.contrib.{app}" for app in ("admin", "auth", "contenttypes", "messages")),
        "pillarbox",
    ],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    PILLARBOX={"ENGINE": "worker"},
)
django.setup()

import pillarbox

OWN = ("pillarbox.engines.celery", "pillarbox.engines.django_q2", "pillarbox.pytest_plugin")
for module in pkgutil.walk_packages(pillarbox.__path__, "pillarbox."):
    if module.name not in OWN:
        __import__(module.name)
        print(module.name)
"""


def test_every_module_but_the_engines_is_imported_without_a_driver_and_a_queue() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "pillarbox.delivery.prepared" in done.stdout.split()
