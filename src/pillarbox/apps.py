"""The Django app."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class PillarboxConfig(AppConfig):
    """Registers the checks and the chosen engine, with its periodic sweep."""

    name = "pillarbox"
    verbose_name = "Pillarbox"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Import the checks, the chosen engine and none of the others, and what a mail needs.

        So the import is no part of the request that sends the first one.
        """
        from pillarbox import api, checks  # noqa: F401
        from pillarbox.engines import get_engine

        post_migrate.connect(_register_sweep, sender=self, dispatch_uid="pillarbox.sweep")
        if not checks.settings_problems():
            get_engine()


def _register_sweep(*, using: str, **_: Any) -> None:
    from pillarbox.engines import get_engine

    get_engine().register_sweep(using)
