"""The `Pause` row: a stream that an operator has stopped."""

from __future__ import annotations

from django.db import models

from pillarbox.models.clock import DatabaseNow


class Pause(models.Model):
    """While the row is there, nothing of the stream is claimed; what is in hand is finished."""

    stream = models.CharField(max_length=64, unique=True)
    since = models.DateTimeField(default=DatabaseNow)

    def __str__(self) -> str:
        return f"{self.stream} is paused"
