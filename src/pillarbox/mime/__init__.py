"""From a message's attributes to the bytes on the wire, without a MIME object in between.

`compose` writes the shapes that real mail has and returns None for any other, which Django's own
``message()`` then renders. Both renderings parse to the same structure, headers, parameters and
decoded content; the transfer encoding may differ, as it does between Django's own versions.

The bytes have CRLF line ends, no line over 998 octets (RFC 5322 section 2.1.1) and no dots doubled:
that is the sender's work.
"""

from __future__ import annotations

import logging
from collections import Counter

from django.core.mail import EmailMessage

from pillarbox.mime.compose import compose
from pillarbox.mime.headers import envelope

__all__ = ["compose", "envelope", "left", "note_left"]

logger = logging.getLogger("pillarbox.mime")

left: Counter[str] = Counter()
"""How many messages of this process were left to Django's own rendering, by their class."""


def note_left(message: EmailMessage) -> None:
    """Count and log, at debug, a message that the composer does not know."""
    name = type(message).__name__
    left[name] += 1
    logger.debug("A message (%s) is rendered by Django: the composer does not know it.", name)
