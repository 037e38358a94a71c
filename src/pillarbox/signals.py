"""Django signals, one for every turn that a message can take; each is sent after the commit.

Every signal has ``sender=Message`` and the argument ``message``, the `Message` as it then was.
The outcomes of an attempt add ``outcome`` (`pillarbox.delivery.outcomes`). They are sent with
``send_robust``: a receiver's exception is logged and stops nothing.
"""

from __future__ import annotations

import logging
from typing import Any

from django.dispatch import Signal

message_queued = Signal()
message_sent = Signal()
message_failed = Signal()
message_retried = Signal()
message_in_doubt = Signal()
message_expired = Signal()
message_cancelled = Signal()
message_held = Signal()
message_released = Signal()

OF_ATTEMPTS = (message_sent, message_failed, message_retried, message_in_doubt)
"""Those that a worker sends of what it has tried to deliver."""

logger = logging.getLogger("pillarbox.signals")


def announce(signal: Signal, message: Any, **details: Any) -> None:
    """Send ``signal`` for ``message`` and log what its receivers raise."""
    for receiver, answer in signal.send_robust(type(message), message=message, **details):
        if isinstance(answer, Exception):
            logger.error("A signal receiver failed: %r", receiver, exc_info=answer)
