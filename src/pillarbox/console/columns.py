"""What the list and the page of messages show of a row; nothing of what is sensitive."""

from __future__ import annotations

import json
from typing import Any

from django.contrib import admin
from django.utils.html import format_html
from django.utils.safestring import SafeString

from pillarbox.console import labels
from pillarbox.delivery import doubts
from pillarbox.models import UNFINISHED, Message, State

HIDDEN = "(sensitive)"

LIST = (
    "number",
    "state_label",
    "shown_subject",
    "recipient",
    "stream",
    "priority",
    "age",
    "due",
    "attempts",
    "mailer",
)
PAGE: tuple[Any, ...] = (
    (None, {"fields": ("state_label", "shown_subject", "from_email", "recipient")}),
    (
        "Delivery",
        {
            "fields": (
                ("stream", "priority"),
                ("mailer", "attempts"),
                ("due_exactly", "expires_exactly"),
                ("policy", "resends"),
                ("begun_exactly", "drain"),
            )
        },
    ),
    (
        "Record",
        {
            "fields": (
                ("created_exactly", "finished_exactly"),
                ("message_id", "date_exactly"),
                ("idempotency_key", "sensitivity"),
                ("tag_list", "shown_metadata"),
            )
        },
    ),
)


class MessageColumns:
    """The columns that are not simply fields."""

    @admin.display(description="No.")
    def number(self, message: Message) -> str:
        """Return the number of the row."""
        return str(message.pk)

    @admin.display(description="state")
    def state_label(self, message: Message) -> SafeString:
        """Return the coloured state."""
        return labels.state_label(State(message.state))

    @admin.display(description="subject")
    def shown_subject(self, message: Message) -> str:
        """Return the subject, unless the message is sensitive."""
        return HIDDEN if message.sensitive else message.subject or labels.NOTHING

    @admin.display(description="to")
    def recipient(self, message: Message) -> SafeString:
        """Return the first recipient and how many more there are."""
        more = message.recipient_count - 1
        return format_html("{}{}", message.first_recipient, f" +{more:,} more" if more > 0 else "")

    @admin.display(description="age")
    def age(self, message: Message) -> str:
        """Return how long ago it was queued."""
        return labels.ago(message.created_at)

    @admin.display(description="due")
    def due(self, message: Message) -> str:
        """Return when it is tried next; only what waits is due."""
        is_waiting = message.state in UNFINISHED - {State.HELD, State.IN_DOUBT}
        return labels.until(message.due_at) if is_waiting else labels.NOTHING

    @admin.display(description="due")
    def due_exactly(self, message: Message) -> str:
        """Return ``due_at`` to the second."""
        return labels.exactly(message.due_at)

    @admin.display(description="expires")
    def expires_exactly(self, message: Message) -> str:
        """Return ``expires_at`` to the second."""
        return labels.exactly(message.expires_at)

    @admin.display(description="conversation begun")
    def begun_exactly(self, message: Message) -> str:
        """Return ``begun_at`` to the second."""
        return labels.exactly(message.begun_at)

    @admin.display(description="queued")
    def created_exactly(self, message: Message) -> str:
        """Return ``created_at`` to the second."""
        return labels.exactly(message.created_at)

    @admin.display(description="finished")
    def finished_exactly(self, message: Message) -> str:
        """Return ``finished_at`` to the second."""
        return labels.exactly(message.finished_at)

    @admin.display(description="Date header")
    def date_exactly(self, message: Message) -> str:
        """Return the pinned Date to the second."""
        return labels.exactly(message.date)

    @admin.display(description="if in doubt")
    def policy(self, message: Message) -> str:
        """Return the policy that holds, and whose it is."""
        owner = "its own policy" if message.in_doubt else "the stream's policy"
        return f"{doubts.policy_of(message)} ({owner})"

    @admin.display(description="sensitive")
    def sensitivity(self, message: Message) -> str:
        """Return the word for it, and what follows from it."""
        return "Yes: shown to nobody, erased once finished" if message.sensitive else "No"

    @admin.display(description="tags")
    def tag_list(self, message: Message) -> str:
        """Return the tags in one line."""
        return ", ".join(message.tags) or labels.NOTHING

    @admin.display(description="metadata")
    def shown_metadata(self, message: Message) -> SafeString | str:
        """Return the metadata as JSON, unless the message is sensitive."""
        if message.sensitive:
            return HIDDEN
        if not message.metadata:
            return labels.NOTHING
        text = json.dumps(message.metadata, indent=2, ensure_ascii=False)
        return format_html('<pre class="pillarbox-text">{}</pre>', text)
