"""Pillarbox: mail that is committed with your data and delivered by a worker."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pillarbox.api import asend_email, asend_emails, send_email, send_emails
    from pillarbox.engines import async_task

__version__ = "0.1.0"
__all__ = ["asend_email", "asend_emails", "async_task", "send_email", "send_emails"]

# Django imports this package before its models can be loaded, so the names come when asked for.
_HOMES = {"async_task": "pillarbox.engines"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES.get(name, "pillarbox.api")), name)
    return value
