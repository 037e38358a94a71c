"""What Django's ``runtests.py`` sets, as far as its mail tests need it, and our two apps."""

from __future__ import annotations

import os

SECRET_KEY = "of no worth: Django's tests use it"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.sites",
    "mail",
]
if os.environ.get("PILLARBOX_DJANGO_SUITE") != "plain":
    INSTALLED_APPS += ["pillarbox", "tests.support.django_suite.apps.SuiteConfig"]
SITE_ID = 1
LANGUAGE_CODE = "en"
PILLARBOX = {"ENGINE": "immediate"}
