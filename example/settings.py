"""The shop's settings. What concerns mail is in the lower half; the rest is any Django project.

The demo sets the SHOP_… variables; by hand the defaults are enough.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import django

DATA = Path(os.environ.get("SHOP_DATA", Path(__file__).parent))

DEBUG = os.environ.get("SHOP_DEBUG", "1") == "1"
SECRET_KEY = os.environ.get("SHOP_SECRET_KEY", "not a secret: nobody sells anything here")
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "urls"
AUTH_USER_MODEL = "shop.Customer"
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = LOGOUT_REDIRECT_URL = "catalogue"
STATIC_URL = "static/"
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "shop",
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
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {name: {"handlers": ["console"], "level": "INFO"} for name in ("pillarbox", "shop")},
}

# The web process, the worker and the mail share this file: WAL lets them read while one writes,
# and IMMEDIATE lets a transaction that is going to write wait for its turn instead of failing.
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": DATA / "shop.sqlite3",
        "OPTIONS": {
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
        },
    },
}

# --------------------------------------------------------------------------------------- mail

DEFAULT_FROM_EMAIL = "Fern & Quill <post@fern-and-quill.example>"

# "default" is what send_mail() and every Django app use: it queues. "smtp" is what delivers.
MAIL: dict[str, Any] = {
    "default": {
        "BACKEND": "pillarbox.backends.queue.EmailBackend",
        "OPTIONS": {"using": "smtp"},
    },
    "smtp": {
        "BACKEND": "pillarbox.backends.smtp.EmailBackend",
        "OPTIONS": {
            "host": "127.0.0.1",
            "port": int(os.environ.get("SHOP_SMTP_PORT", "1025")),
            "timeout": 10,
        },
    },
}

# A notice that may have gone out is not sent again; a confirmation is.
PILLARBOX: dict[str, Any] = {"STREAMS": {"bulk": {"mailers": ["smtp"], "in_doubt": "hold"}}}

if django.VERSION >= (6, 1):
    MAILERS = MAIL
else:
    EMAIL_BACKEND = MAIL["default"]["BACKEND"]
    PILLARBOX["MAILERS"] = MAIL

# django-q2 keeps its queue in the same database; `manage.py qcluster` is the worker.
Q_CLUSTER = {"name": "shop", "orm": "default", "workers": 2, "timeout": 60, "retry": 120}
