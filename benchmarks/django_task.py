"""The task of Django's own task framework that calls ``send_mail``."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import django

from benchmarks.mail import deliver

# On Django 5.2 a package has the framework.
framework: Any = import_module("django.tasks" if django.VERSION >= (6, 0) else "django_tasks")


@framework.task()
def send(subject: str, text: str, html: str, recipients: list[str]) -> None:
    """Send it now."""
    deliver(subject, text, html, recipients)
