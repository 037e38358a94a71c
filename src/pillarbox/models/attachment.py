"""The `Attachment` row: bytes that one or many messages carry, stored once a call."""

from __future__ import annotations

from django.db import models

from pillarbox.models.clock import DatabaseNow


class Attachment(models.Model):
    """The bytes of an attachment, in ``data`` or, with a STORAGES alias, in a file ``name``."""

    sha256 = models.CharField(max_length=64)
    size_bytes = models.PositiveBigIntegerField()
    data = models.BinaryField(null=True)
    storage = models.CharField(max_length=64, blank=True, help_text="A STORAGES alias.")
    name = models.CharField(max_length=255, blank=True, help_text="The file in that storage.")
    created_at = models.DateTimeField(default=DatabaseNow)

    def __str__(self) -> str:
        return f"Attachment {self.pk} ({self.size_bytes} bytes)"
