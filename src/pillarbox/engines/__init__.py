"""The chosen engine, loaded when it is first needed."""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from importlib import import_module
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from pillarbox.conf import get_settings
from pillarbox.engines.base import JOBS, Engine

__all__ = ["async_task", "get_engine"]


@cache
def get_engine() -> Engine:
    """Return the engine that ``PILLARBOX["ENGINE"]`` names.

    Raise ImproperlyConfigured if the library of the engine is not installed.
    """
    settings = get_settings()
    try:
        module = import_module(f"pillarbox.engines.{settings.engine}")
    except ModuleNotFoundError as error:
        raise ImproperlyConfigured(
            f'PILLARBOX["ENGINE"] is "{settings.engine}", but {error.name} is not installed. '
            f'Install it (pip install "django-pillarbox[{settings.engine.replace("_", "-")}]") '
            'or choose "worker", which needs no library.'
        ) from error
    engine: Engine = module.Engine(settings.engine_options)
    return engine


def _forget(*, setting: str, **_: Any) -> None:
    if setting == "PILLARBOX":
        get_engine.cache_clear()


setting_changed.connect(_forget, dispatch_uid="pillarbox.engines")


def async_task(dotted_path: str, *, delay: timedelta | None = None) -> None:
    """Hand one of the package's own jobs to the configured engine.

    Raise ValueError for any other path: a broker must not be able to run what it likes. Raise
    whatever the broker's client raises. ``delay`` is dropped where the engine has none. Nothing
    waits for a transaction here; ``send_email`` calls it from ``on_commit``.
    """
    if dotted_path not in JOBS:
        raise ValueError(f"{dotted_path!r} is no job of Pillarbox. The jobs are {', '.join(JOBS)}.")
    engine = get_engine()
    engine.async_task(dotted_path, delay=delay if engine.supports_delay else None)
