"""The `Circuit` row: what every host knows of a mailer's health, and an operator's pause."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from pillarbox.models.clock import DatabaseNow


class Circuit(models.Model):
    """One mailer that was down at some time, or is paused; a mailer without a row is well.

    Written by `pillarbox.delivery.circuits` alone.
    """

    class State(models.TextChoices):
        """Whether mail goes by the mailer."""

        CLOSED = "closed"
        """It carries."""
        OPEN = "open"
        """It carries nothing; from ``open_until`` on it may be tried."""
        HALF_OPEN = "half_open"
        """One drain tries it with one message."""

    mailer = models.CharField(max_length=64, unique=True)
    state = models.CharField(max_length=9, choices=State.choices, default=State.CLOSED)
    since = models.DateTimeField(default=DatabaseNow, help_text="When the state was entered.")
    open_until = models.DateTimeField(null=True, blank=True)
    failures = models.PositiveIntegerField(default=0, help_text="In a row; each doubles the wait.")
    reason = models.CharField(
        max_length=100, default="", blank=True, help_text="The last fault: a class or a code."
    )
    probe = models.UUIDField(null=True, blank=True, help_text="The drain that tries it.")
    probe_until = models.DateTimeField(
        null=True, blank=True, help_text="When that drain counts as dead."
    )
    paused = models.BooleanField(default=False, help_text="An operator's word.")

    class Meta:
        ordering = ("mailer",)
        constraints = (
            models.CheckConstraint(
                condition=Q(state__in=("closed", "open", "half_open")),
                name="pillarbox_circuit_state",
            ),
        )

    def __str__(self) -> str:
        return f"{self.mailer}: {'paused' if self.paused else self.state}"
