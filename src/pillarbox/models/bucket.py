"""The `Bucket` row: how many recipients a stream may still have by one mailer at this moment."""

from __future__ import annotations

from django.db import models

from pillarbox.models.clock import DatabaseNow
from pillarbox.models.fields import ExactCharField


class Bucket(models.Model):
    """The tokens of one stream and one mailer, shared by every worker on every host.

    ``tokens`` is as of ``filled_at`` by the database's clock, and below zero where a message
    larger than the bucket has left a debt. `pillarbox.delivery.limits` alone writes it.
    """

    stream = ExactCharField(max_length=64)
    mailer = ExactCharField(max_length=64)
    tokens = models.FloatField()
    filled_at = models.DateTimeField(default=DatabaseNow)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("stream", "mailer"), name="pillarbox_bucket_of"),
        )

    def __str__(self) -> str:
        return f"{self.stream} by {self.mailer}: {self.tokens:g}"
