"""The six outcomes of an attempt, the stages and a server's reply; types alone, no decisions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType


class Stage(StrEnum):
    """How far a conversation went; the step that was under way when it ended."""

    OPEN = "open"  # connect, EHLO, STARTTLS, AUTH
    RENDER = "render"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    BODY = "body"
    DOT = "dot"  # the final dot was written
    SEND = "send"  # a foreign backend's send_messages(), which cannot say more
    UNKNOWN = "unknown"  # the worker died after begin


@dataclass(frozen=True, slots=True)
class Reply:
    """A server's reply: the code (RFC 5321 4.2), the enhanced code (RFC 3463) and the text."""

    code: int | None = None
    enhanced_code: str = ""
    text: str = ""


NO_REPLIES: Mapping[str, Reply] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Base of the six outcomes. ``recipients`` has the replies given to single addresses."""

    reply: Reply = field(default_factory=Reply)
    stage: Stage = Stage.UNKNOWN
    recipients: Mapping[str, Reply] = field(default_factory=lambda: NO_REPLIES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent(Outcome):
    """Every recipient was accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartlySent(Outcome):
    """Accepted for some: ``recipients`` holds the refused ones, with their replies.

    A 4xx refusal is retried for that recipient alone; a 5xx one is final. ``put_off`` are those of
    the refused for whom the server had no room in this transaction: their turn is at once.
    """

    put_off: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry(Outcome):
    """Not accepted now; ``after`` is the server's own wish, None for the schedule's."""

    after: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail(Outcome):
    """Refused for good, or cannot be rendered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MailerDown(Outcome):
    """The mailer's fault and nobody's message: no attempt is charged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InDoubt(Outcome):
    """The whole message was written and no reply came: perhaps delivered."""


def without_reply(outcome: Outcome) -> Outcome:
    """Return the outcome without a server's words, where these cannot be stored.

    What was said to single recipients is among them: of a partly sent message nobody knows then
    who has it, which is a doubt.
    """
    if isinstance(outcome, PartlySent):
        return InDoubt(stage=outcome.stage)
    return dataclasses.replace(outcome, reply=Reply(), recipients=NO_REPLIES)
