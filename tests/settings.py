"""The suite's Django project.

PILLARBOX_TEST_DB picks the database: sqlite (the default), postgresql or mariadb; tests/services.py
says where the servers are. A process that a test starts gets PILLARBOX_TEST_DB_NAME and so works
on that test's database (the fixture `process_env` in conftest.py sets it).
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import django

from tests.services import MARIADB, POSTGRESQL

# Two runs at once must not share a test database; xdist's workers inherit the name of their run.
# Set by hand it stays the same from run to run, as --reuse-db wants it.
RUN = os.environ.setdefault("PILLARBOX_TEST_RUN", str(os.getpid()))
DATABASE = os.environ.get("PILLARBOX_TEST_DB", "sqlite")
# A file and not memory, so that threads and processes of a test share it.
SQLITE_FILE = Path(tempfile.gettempdir()) / f"pillarbox-{RUN}.sqlite3"


def database(suffix: str = "") -> dict[str, Any]:
    """Return an entry of DATABASES, as the documentation tells users to write it."""
    given = os.environ.get(f"PILLARBOX_TEST_DB_NAME{suffix.upper()}")
    if DATABASE == "sqlite":
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": given or ":memory:",
            "OPTIONS": {
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
                "transaction_mode": "IMMEDIATE",
                "timeout": 20,
            },
            "TEST": {"NAME": str(SQLITE_FILE.with_stem(SQLITE_FILE.stem + suffix))},
        }
    name = given or f"pillarbox_{RUN}{suffix}"
    if DATABASE == "postgresql":
        return {"ENGINE": "django.db.backends.postgresql", "NAME": name, **POSTGRESQL}
    if DATABASE == "mariadb":
        return {
            "ENGINE": "django.db.backends.mysql",
            "NAME": name,
            **MARIADB,
            "OPTIONS": {"charset": "utf8mb4"},
            "TEST": {"CHARSET": "utf8mb4"},
        }
    raise ValueError(f"PILLARBOX_TEST_DB is {DATABASE!r}: use sqlite, postgresql or mariadb.")


SECRET_KEY = "of no worth: the tests use it"
DEBUG = False
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "tests.urls"
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # fast, and never in use

# The second one is made only for a test that asks for it.
DATABASES = {"default": database(), "other": database("_other")}

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "django_q",
    "pillarbox",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
STATIC_URL = "static/"

DEFAULT_FROM_EMAIL = "Shop <shop@example.org>"
if django.VERSION >= (6, 1):
    MAILERS = {"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}
else:
    EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"

Q_CLUSTER = {"orm": "default", "timeout": 60, "retry": 120}
PILLARBOX: dict[str, Any] = {}
