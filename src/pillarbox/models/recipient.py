"""The `Recipient` row: what became of one address of a message."""

from __future__ import annotations

from django.db import models

from pillarbox.models.message import Message
from pillarbox.models.states import RecipientState


class Recipient(models.Model):
    """One address of the envelope, in lower case, and the server's word on it.

    Written by the worker with the first attempt's result, never on the request's path.
    """

    class Kind(models.TextChoices):
        """The field of the message in which the address stands."""

        TO = "to"
        CC = "cc"
        BCC = "bcc"

    # Written in the statement that finds the message: for the database to look again costs a tenth
    # of all that it does for a mail.
    message = models.ForeignKey(
        Message, models.CASCADE, related_name="recipients", db_index=False, db_constraint=False
    )
    kind = models.CharField(max_length=3, choices=Kind.choices, default=Kind.TO)
    address = models.CharField(max_length=320)
    state = models.CharField(max_length=8, choices=RecipientState.choices)
    code = models.SmallIntegerField(null=True, blank=True, help_text="SMTP reply code.")
    enhanced_code = models.CharField(max_length=11, blank=True, help_text="RFC 3463.")
    reply = models.TextField(blank=True)
    updated_at = models.DateTimeField()

    class Meta:
        indexes = (
            models.Index(
                fields=("address",),
                name="pillarbox_recipient_address",
                opclasses=("varchar_pattern_ops",),  # PostgreSQL's, for LIKE 'beginning%' and =
            ),
        )
        constraints = (
            # Serves the foreign key, too.
            models.UniqueConstraint(
                fields=("message", "address"), name="pillarbox_one_row_per_address"
            ),
        )

    def __str__(self) -> str:
        return f"{self.address} ({self.state})"
