"""Columns, indexes and constraints; whoever changes a message's state lives elsewhere."""

from pillarbox.models.attachment import Attachment
from pillarbox.models.attempt import Attempt
from pillarbox.models.bucket import Bucket
from pillarbox.models.circuit import Circuit
from pillarbox.models.clock import DatabaseNow, database_now
from pillarbox.models.drain import Drain
from pillarbox.models.indexes import in_states
from pillarbox.models.message import Message
from pillarbox.models.pause import Pause
from pillarbox.models.recipient import Recipient
from pillarbox.models.states import (
    FINISHED,
    TRANSITIONS,
    UNFINISHED,
    Priority,
    RecipientState,
    State,
)

__all__ = [
    "FINISHED",
    "TRANSITIONS",
    "UNFINISHED",
    "Attachment",
    "Attempt",
    "Bucket",
    "Circuit",
    "DatabaseNow",
    "Drain",
    "Message",
    "Pause",
    "Priority",
    "Recipient",
    "RecipientState",
    "State",
    "database_now",
    "in_states",
]
