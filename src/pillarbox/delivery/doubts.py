"""What becomes of a message in doubt, by its policy; pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, cast

from pillarbox.conf import DoubtPolicy, get_settings
from pillarbox.models import Message, State

RESEND_AFTER = timedelta(seconds=30)
"""A late result of the drain that was thought dead may still settle the message until then."""


def policy_of(message: Message) -> DoubtPolicy:
    """Return the message's own policy, else its stream's."""
    if message.in_doubt:
        return cast("DoubtPolicy", message.in_doubt)
    return get_settings().stream(message.stream).in_doubt


def settle(message: Message, now: datetime) -> dict[str, Any]:
    """Return the columns that change when ``message`` is found in doubt.

    Under ``resend`` it is queued again once, for 30 s later, and keeps ``drain`` and ``begun_at``
    so that a late result still settles it. Else, or where it would expire before, it stays
    ``in_doubt``.
    """
    again_at = now + RESEND_AFTER
    may_wait = message.expires_at is None or message.expires_at > again_at
    if policy_of(message) == "resend" and message.resends == 0 and may_wait:
        return {"state": State.QUEUED, "due_at": again_at, "resends": message.resends + 1}
    return {"state": State.IN_DOUBT}
