"""What the services behind Anymail and botocore say beyond HTTP; pure, imports neither."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from pillarbox.addresses import bare
from pillarbox.delivery.outcomes.kinds import Fail, Outcome, PartlySent, Reply, Retry, Sent, Stage

REFUSED = frozenset({"invalid", "rejected", "failed"})
"""Of Anymail's statuses; ``sent``, ``queued``, ``unknown`` and None were taken by the service."""

THROTTLED = frozenset(
    {
        "LimitExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
ACCOUNT = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "AccountSendingPausedException",
        "AccountSuspendedException",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "MissingAuthenticationToken",
        "SendingPausedException",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
"""Error codes of AWS that come with status 400 and yet are nobody's message's fault."""


class RecipientStatus(Protocol):
    """One address in `AnymailStatus.recipients`."""

    @property
    def status(self) -> str | None:
        """One of Anymail's statuses, None before the service has said."""


class AnymailStatus(Protocol):
    """What Anymail leaves at ``message.anymail_status``."""

    @property
    def message_id(self) -> Any:
        """The service's id, or a set of them, or None."""

    @property
    def recipients(self) -> Mapping[str, RecipientStatus]:
        """What the service said of each address."""


def from_anymail(status: AnymailStatus) -> Outcome:
    """Return what Anymail's status of a message means, address by address.

    ``sent``, ``queued`` and ``unknown`` are accepted; ``invalid``, ``rejected`` and ``failed``
    count as a 550. The service's message id is the reply's text.
    """
    refused = {
        bare(address): Reply(code=550, text=f"The service says: {recipient.status}.")
        for address, recipient in status.recipients.items()
        if recipient.status in REFUSED
    }
    if not refused:
        return Sent(reply=_message_ids(status), stage=Stage.SEND)
    if len(refused) < len(status.recipients):
        return PartlySent(reply=_message_ids(status), stage=Stage.SEND, recipients=refused)
    return Fail(reply=next(iter(refused.values())), stage=Stage.SEND, recipients=refused)


def _message_ids(status: AnymailStatus) -> Reply:
    given = status.message_id
    ids = given if isinstance(given, set | frozenset | list | tuple) else [given]
    return Reply(text=" ".join(sorted(str(each) for each in ids if each)))


def not_sent() -> Outcome:
    """Return the outcome for a backend that raised nothing and says that it sent nothing."""
    text = "The backend says that it sent nothing, and not why. Is it set to fail_silently?"
    return Retry(reply=Reply(text=text), stage=Stage.SEND)
