"""What differs between the Django versions; the only module that asks which one runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import django
from django.conf import settings
from django.core import mail
from django.utils.module_loading import import_string

if TYPE_CHECKING:
    from django.core.mail.backends.base import BaseEmailBackend

HAS_MAILERS = hasattr(mail, "mailers")
"""Django 6.1 and newer: ``mail.mailers``; the project may still not use it."""

MODERN_MESSAGES = django.VERSION >= (6, 0)
"""``EmailMessage.message()`` gives an ``email.message.EmailMessage`` and takes a policy."""

SMTP_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
LOCMEM_BACKEND = "django.core.mail.backends.locmem.EmailBackend"


def uses_mailers() -> bool:
    """Whether the project has opted into ``MAILERS``; then ``settings.EMAIL_*`` may not be read."""
    return HAS_MAILERS and hasattr(settings, "MAILERS")


def django_mailers() -> Mapping[str, Mapping[str, Any]]:
    """Return ``settings.MAILERS`` where Django reads it, else nothing."""
    return settings.MAILERS if uses_mailers() else {}


def present_backend_path() -> str:
    """Return the backend that the project sends with today, as its settings name it."""
    if uses_mailers():
        return str(django_mailers().get("default", {}).get("BACKEND", SMTP_BACKEND))
    # Not through ``settings`` itself: 6.1 warns whoever reads the setting, and it is the user's.
    return str(cast("Any", settings)._wrapped.EMAIL_BACKEND)


def open_present_backend() -> BaseEmailBackend:
    """Make the backend that the project sends with today."""
    if HAS_MAILERS:
        return mail.mailers["default"]
    return import_string(present_backend_path())()  # type: ignore[no-any-return]


def build_backend(alias: str, path: str, options: Mapping[str, Any]) -> BaseEmailBackend:
    """Make a backend from an entry of a mailers dictionary, as Django 6.1 does."""
    # Before 6.1 a backend knows no alias, and one without **kwargs would reject it.
    identity = {"alias": alias} if HAS_MAILERS else {}
    return import_string(path)(**identity, **options)  # type: ignore[no-any-return]
