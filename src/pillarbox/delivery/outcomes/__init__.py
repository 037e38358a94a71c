"""What became of an attempt, as a pure function of the server's reply or the exception.

``kinds`` has the types, ``replies`` judges what an SMTP server said, ``errors`` judges exceptions,
``web`` those of HTTP clients, ``esp`` reads what Anymail and botocore add. Nothing here does I/O,
and no library is imported: exceptions of others are known by the names of their classes.
"""

from pillarbox.delivery.outcomes.errors import classify
from pillarbox.delivery.outcomes.esp import from_anymail, not_sent
from pillarbox.delivery.outcomes.kinds import (
    NO_REPLIES,
    Fail,
    InDoubt,
    MailerDown,
    Outcome,
    PartlySent,
    Reply,
    Retry,
    Sent,
    Stage,
    without_reply,
)

__all__ = (
    "NO_REPLIES",
    "Fail",
    "InDoubt",
    "MailerDown",
    "Outcome",
    "PartlySent",
    "Reply",
    "Retry",
    "Sent",
    "Stage",
    "classify",
    "from_anymail",
    "not_sent",
    "without_reply",
)
