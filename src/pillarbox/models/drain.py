"""The `Drain` row: a worker's heartbeat, and the lease of everything it claimed."""

from __future__ import annotations

import uuid

from django.db import models


class Drain(models.Model):
    """One drain at work on some host; the row goes when the drain does.

    ``stay_until`` is where other drains hand their wakes over: a drain leaves only once it has
    looked, in vain, after that moment. One at most has ``waits``: it stays for the tokens of the
    streams that have a rate.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    host = models.CharField(max_length=255)
    pid = models.PositiveIntegerField()
    engine = models.CharField(max_length=32)
    slot = models.PositiveSmallIntegerField(null=True, unique=True)
    started_at = models.DateTimeField()
    lease_until = models.DateTimeField()
    stay_until = models.DateTimeField()
    idle = models.BooleanField(default=False)
    waits = models.BooleanField(null=True, unique=True)
    closing = models.BooleanField(default=False)

    def __str__(self) -> str:
        return f"{self.engine} drain on {self.host}, process {self.pid}"
