"""What a message's class does beyond Django's: how it must be carried, and what comes back."""

from __future__ import annotations

import email.policy
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesParser
from functools import lru_cache
from types import FunctionType
from typing import Any

from django.core.mail import EmailMessage, EmailMultiAlternatives

from pillarbox.compat import MODERN_MESSAGES

_NOT_RENDERING = {
    "__init__",
    "attach",
    "attach_alternative",
    "attach_file",
    "body_contains",
    "get_connection",
    "recipients",
    "send",
}
RENDERING = frozenset(
    name
    for base in (EmailMessage, EmailMultiAlternatives)
    for name, value in vars(base).items()
    if isinstance(value, FunctionType) and name not in _NOT_RENDERING
)
"""``message()`` and whatever it calls: who replaces one of these writes its own MIME."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the codec must know of a class."""

    base: type[EmailMessage]
    renders_itself: bool
    has_own_envelope: bool
    attributes: frozenset[str]
    """Public names of plain values that subclasses of Django's classes define."""


@lru_cache(maxsize=256)
def class_shape(cls: type) -> Shape:
    """Compare a class with the one of Django's that it extends."""
    base = EmailMultiAlternatives if issubclass(cls, EmailMultiAlternatives) else EmailMessage
    own = [level for level in cls.__mro__ if level not in base.__mro__]
    return Shape(
        base=base,
        renders_itself=_differs(cls, base, RENDERING),
        has_own_envelope=_differs(cls, base, {"recipients"}),
        attributes=frozenset(
            name for level in own for name, value in vars(level).items() if _is_plain(name, value)
        ),
    )


def _differs(cls: type, base: type, names: set[str] | frozenset[str]) -> bool:
    return any(getattr(cls, name, None) is not getattr(base, name, None) for name in names)


def _is_plain(name: str, value: Any) -> bool:
    is_behaviour = callable(value) or hasattr(value, "__get__")
    return not name.startswith("_") and not is_behaviour


def shape_of(email: EmailMessage) -> Shape:
    """Return the shape of a message, whose own attributes may replace its class's methods."""
    cls: type = type(email)
    shape = class_shape(cls)
    own = vars(email)
    if RENDERING.isdisjoint(own) and "recipients" not in own:
        return shape
    return Shape(
        base=shape.base,
        renders_itself=shape.renders_itself or not RENDERING.isdisjoint(own),
        has_own_envelope=shape.has_own_envelope or "recipients" in own,
        attributes=shape.attributes,
    )


def renders_itself(email: EmailMessage) -> bool:
    """Whether the message will be carried as the raw bytes that its class writes."""
    return shape_of(email).renders_itself


def render(email_message: EmailMessage) -> bytes:
    """Return the message as Django's SMTP backend would write it. Raise whatever that raises."""
    return octets(build(email_message))


def build(email_message: EmailMessage) -> Any:
    """Return the MIME message that Django's SMTP backend would write."""
    if MODERN_MESSAGES:
        return email_message.message(policy=email.policy.SMTP)
    return email_message.message()


def octets(message: Any) -> bytes:
    """Return what `build` has made, as it would be written."""
    return bytes(message.as_bytes() if MODERN_MESSAGES else message.as_bytes(linesep="\r\n"))


class Envelope(EmailMessage):
    """Goes to the recipients that its original computed."""

    _recipients: list[str] | None = None

    def recipients(self) -> list[str]:
        """Return the envelope's recipients."""
        return super().recipients() if self._recipients is None else list(self._recipients)


class EnvelopeMessage(Envelope):
    """An `EmailMessage` whose class had a ``recipients()`` of its own."""


class EnvelopeAlternatives(Envelope, EmailMultiAlternatives):
    """An `EmailMultiAlternatives` whose class had a ``recipients()`` of its own."""


class RawMessage(Envelope):
    """A message whose class wrote its own MIME: exactly these bytes, for SMTP mailers.

    ``from_email`` and ``recipients()`` are the envelope; subject and addresses are for looking.
    """

    raw: bytes = b""

    def message(self, *, policy: email.policy.Policy | None = None) -> Any:
        """Return the bytes, parsed; ``as_bytes()`` gives them back as they came."""
        policy = policy or email.policy.default
        parsed: Any = BytesParser(_RawMIME, policy=policy).parsebytes(self.raw)
        parsed.raw = self.raw
        return parsed


class _RawMIME(Message):
    raw: bytes | None = None  # the children of a multipart have none

    def as_bytes(self, *args: Any, linesep: str | None = None, **options: Any) -> bytes:
        """Return the bytes, with CRLF where the caller's policy or ``linesep`` says so."""
        if self.raw is None:
            return super().as_bytes(*args, **options)
        policy = options.get("policy") or self.policy
        if (linesep or policy.linesep) == "\r\n":
            return self.raw
        return self.raw.replace(b"\r\n", b"\n")
