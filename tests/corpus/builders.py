"""How a message gets into the corpus, and what builds most of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.core.mail import EmailMessage, EmailMultiAlternatives

from pillarbox.compat import MODERN_MESSAGES

Builder = Callable[[], EmailMessage]
CORPUS: dict[str, Builder] = {}


def case(build: Builder) -> Builder:
    """Add a message to the corpus under its function's name."""
    CORPUS[build.__name__] = build
    return build


def legacy(build: Builder) -> Builder:
    """Add one that Django up to 5.2 sends."""
    return build if MODERN_MESSAGES else case(build)


def modern(build: Builder) -> Builder:
    """Add one that Django from 6.0 sends."""
    return case(build) if MODERN_MESSAGES else build


def plain(**options: Any) -> EmailMessage:
    """Return a message with what is not given filled in."""
    defaults = {"subject": "Order 42", "body": "Thank you.\n", "to": ["customer@example.com"]}
    return EmailMessage(**{**defaults, **options})


def alternatives(*parts: tuple[Any, str], **options: Any) -> EmailMultiAlternatives:
    """Return a message with alternatives."""
    defaults = {"subject": "Order 42", "body": "Thank you.\n", "to": ["customer@example.com"]}
    return EmailMultiAlternatives(**{**defaults, **options}, alternatives=list(parts))
