"""The app that puts the codec between Django's tests and Django's mail."""

from __future__ import annotations

from django.apps import AppConfig


class SuiteConfig(AppConfig):
    """Installs the shim once the models are there."""

    name = "tests.support.django_suite"
    label = "django_suite"

    def ready(self) -> None:
        """Install it."""
        from tests.support.django_suite import shim

        shim.install()
