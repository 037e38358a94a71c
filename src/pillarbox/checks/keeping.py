"""Checks where attachments are kept, and for how long everything is."""

from __future__ import annotations

from collections.abc import Iterator

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error

from pillarbox.conf import get_settings


def check() -> Iterator[CheckMessage]:
    """Check ``ATTACHMENTS`` and ``RETENTION``."""
    value = get_settings()
    if value.attachments_storage and value.attachments_storage not in settings.STORAGES:
        yield Error(
            f'PILLARBOX["ATTACHMENTS"]["storage"] is "{value.attachments_storage}", which is not '
            "in STORAGES.",
            hint=f"Define it there, or name one of {', '.join(settings.STORAGES)}; with None the "
            "database keeps attachments.",
            id="pillarbox.E007",
        )
    if value.retention_rows < value.retention_content:
        yield checks.Warning(
            'PILLARBOX["RETENTION"]["rows"] is shorter than ["content"]: the rows go, and their '
            "content with them, before it would be erased.",
            hint="Make it at least as long.",
            id="pillarbox.W004",
        )
