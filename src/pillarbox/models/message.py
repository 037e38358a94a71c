"""The `Message` row: one mail, its schedule and who holds it; it has no verbs."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models import Q

from pillarbox.models.attachment import Attachment
from pillarbox.models.clock import DatabaseNow
from pillarbox.models.fields import ExactCharField
from pillarbox.models.indexes import IndexPartialOnPostgreSQL, PartialIndex, UniqueWhereGiven
from pillarbox.models.states import FINISHED, Priority, State


class Message(models.Model):
    """One mail. Written by `pillarbox.outbox`, `delivery.claims` and `delivery.ledger` alone.

    ``subject``, ``from_email``, ``message_id`` and ``first_recipient`` are for looking and
    searching; ``content`` is what is sent.
    """

    state = models.CharField(max_length=12, choices=State.choices, default=State.QUEUED)
    stream = models.CharField(max_length=64, default="default")
    priority = models.SmallIntegerField(choices=Priority.choices, default=Priority.NORMAL)
    due_at = models.DateTimeField(default=DatabaseNow)
    expires_at = models.DateTimeField(null=True, blank=True)

    # No PositiveIntegerField here, nor in the rows of recipients and attempts: for every statement
    # that writes PostgreSQL reads each CHECK anew.
    attempts = models.IntegerField(default=0, help_text="Attempts charged so far.")
    retry_since = models.DateTimeField(
        default=DatabaseNow, help_text="Where the stream's retry_for starts to count."
    )
    in_doubt = models.CharField(
        max_length=6, default="", blank=True, help_text="resend or hold; empty: the stream's."
    )
    resends = models.SmallIntegerField(
        default=0, help_text="How often it was sent again although in doubt."
    )
    drain = models.UUIDField(null=True, blank=True, help_text="The drain that claimed it.")
    begun_at = models.DateTimeField(null=True, blank=True)
    mailer = models.CharField(
        max_length=64, default="", blank=True, help_text="Of the present or the last attempt."
    )
    using = models.CharField(
        max_length=64, default="", blank=True, help_text="The mailer that a queueing backend names."
    )

    message_id = models.CharField("Message-ID", max_length=255)
    date = models.DateTimeField(help_text="The Date header, pinned when the mail was queued.")
    subject = models.CharField(max_length=255, blank=True)
    from_email = models.CharField("from", max_length=320)
    first_recipient = models.CharField(max_length=320)
    recipient_count = models.IntegerField()
    content = models.TextField(blank=True, help_text="Versioned JSON; empty once erased.")

    idempotency_key = ExactCharField(max_length=255, null=True, blank=True)
    fingerprint = models.CharField(max_length=64, default="", blank=True)
    tags = models.JSONField(default=list, blank=True)
    metadata = models.JSONField(default=dict, blank=True)
    sensitive = models.BooleanField(default=False)
    created_at = models.DateTimeField(default=DatabaseNow)
    finished_at = models.DateTimeField(null=True, blank=True)

    attachments: models.ManyToManyField[Attachment, Any] = models.ManyToManyField(
        Attachment, blank=True, related_name="messages"
    )

    class Meta:
        ordering = ("-id",)
        permissions = (
            ("view_content", "Can see the content of messages"),
            ("operate", "Can cancel, hold, release, retry and resolve messages, and pause mailers"),
        )
        indexes = (
            # The claim: stream by stream, priority by priority, due first. The condition keeps
            # it as small as the queue where the database has partial indexes.
            PartialIndex(
                fields=("state", "stream", "priority", "due_at", "id"),
                name="pillarbox_message_claim",
                condition=Q(state="queued"),
            ),
            # A drain asks which mailers were named for mail in the queue: most often none.
            PartialIndex(
                fields=("state", "using"),
                name="pillarbox_message_named",
                condition=Q(state="queued", using__gt=""),
            ),
            # What people search for. A text's index is written with every state that a message
            # takes, so there is one for each, made for the question: ``db_index`` makes two.
            models.Index(fields=("message_id",), name="pillarbox_message_id_header"),
            models.Index(
                fields=("first_recipient",),
                name="pillarbox_message_recipient",
                opclasses=("varchar_pattern_ops",),  # PostgreSQL's, for LIKE 'beginning%' and =
            ),
            # Lists by state, what drains hold, pruning by age. Whoever queues does not write it.
            IndexPartialOnPostgreSQL(
                fields=("state", "finished_at"),
                name="pillarbox_message_finished",
                condition=~Q(state="queued"),
            ),
        )
        constraints = (
            UniqueWhereGiven(fields=("idempotency_key",), name="pillarbox_message_idempotency_key"),
            models.CheckConstraint(
                condition=Q(state__in=State.values), name="pillarbox_message_state"
            ),
        )

    def __str__(self) -> str:
        return f"Message {self.pk} ({self.state})"

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will happen to it by itself."""
        return State(self.state) in FINISHED

    @property
    def is_erased(self) -> bool:
        """Whether the content is gone, so that it cannot be sent again."""
        return not self.content
