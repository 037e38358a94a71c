"""The `Attempt` row: one conversation about a message, the audit trail."""

from __future__ import annotations

from django.db import models

from pillarbox.models.message import Message


class Attempt(models.Model):
    """One attempt at delivery and the server's reply, or what is known of a doubtful one."""

    class Result(models.TextChoices):
        """How the attempt ended; the names of `pillarbox.delivery.outcomes`."""

        SENT = "sent"
        PARTLY_SENT = "partly_sent"
        RETRY = "retry"
        FAILED = "failed"
        MAILER_DOWN = "mailer_down"
        IN_DOUBT = "in_doubt"
        RESOLVED = "resolved"

    message = models.ForeignKey(  # see `Recipient.message`
        Message, models.CASCADE, related_name="trail", db_constraint=False
    )
    mailer = models.CharField(max_length=64, blank=True)
    server = models.CharField(
        max_length=255, blank=True, help_text="Host and port; the backend of what is not SMTP."
    )
    drain = models.UUIDField(null=True, blank=True)
    started_at = models.DateTimeField()
    took_ms = models.IntegerField(null=True, blank=True)
    result = models.CharField(max_length=12, choices=Result.choices)
    stage = models.CharField(max_length=12, blank=True, help_text="How far the conversation went.")
    code = models.SmallIntegerField(null=True, blank=True, help_text="SMTP reply code.")
    enhanced_code = models.CharField(max_length=11, blank=True, help_text="RFC 3463.")
    reply = models.TextField(blank=True)

    class Meta:
        ordering = ("id",)

    def __str__(self) -> str:
        return f"{self.result} by {self.mailer}"
