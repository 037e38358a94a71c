"""What a server received, as values that can be compared: all but boundaries."""

from __future__ import annotations

import smtplib
from datetime import UTC, datetime
from email.parser import BytesParser
from typing import Any

from django.core.mail import EmailMessage

from pillarbox import codec
from pillarbox.attachments import MemoryBlobs
from pillarbox.compat import SMTP_BACKEND, build_backend
from tests.support.smtp_sink import Received, Sink

MESSAGE_ID = "<pinned@example.org>"
DATE = datetime(2026, 11, 24, 4, 30, tzinfo=UTC)


def describe(data: bytes) -> dict[str, Any]:
    """Return headers, parameters and decoded content of a message, part by part."""
    return _describe(BytesParser().parsebytes(data), is_nested=False)


def _describe(part: Any, *, is_nested: bool) -> dict[str, Any]:
    # Django makes these of an attached EmailMessage anew each time it renders it.
    volatile = {"message-id", "date"} if is_nested else set()
    headers = [(name.lower(), str(value)) for name, value in part.items()]
    payload = part.get_payload()
    inner = is_nested or part.get_content_maintype() == "message"
    return {
        "headers": sorted(one for one in headers if one[0] not in {"content-type", *volatile}),
        "type": [one for one in part.get_params([]) if one[0].lower() != "boundary"],
        "content": (
            [_describe(child, is_nested=inner) for child in payload]
            if isinstance(payload, list)
            else part.get_payload(decode=True)
        ),
        "around": (part.preamble, part.epilogue),
    }


def send_directly(email: EmailMessage, sink: Sink) -> dict[str, Any]:
    """Send with Django's SMTP backend, Message-ID and Date as the queue would pin them."""
    own = {name.lower() for name in email.extra_headers}
    pins = carried(EmailMessage()).extra_headers
    missing = {name: value for name, value in pins.items() if name.lower() not in own}
    email.extra_headers = {**missing, **email.extra_headers}
    return _send(email, sink)


def send_through_the_queue(email: EmailMessage, sink: Sink) -> dict[str, Any]:
    """Check, encode, decode, and send with Django's SMTP backend."""
    codec.check(email)
    blobs = MemoryBlobs()
    content = encoded(email, blobs)
    assert content.isascii()
    assert "\x00" not in content
    try:
        return _send(codec.decode(content, blobs), sink)
    except smtplib.SMTPException:
        raise  # the server's word, which no check can know
    except Exception as error:
        raise AssertionError("the check has let through what cannot be sent") from error


def encoded(email: EmailMessage, blobs: MemoryBlobs | None = None) -> str:
    """Encode with the pins of this module."""
    return codec.encode(email, blobs or MemoryBlobs(), message_id=MESSAGE_ID, date=DATE)


def carried(email: EmailMessage) -> Any:
    """Encode and decode."""
    blobs = MemoryBlobs()
    return codec.decode(encoded(email, blobs), blobs)


def _send(email: EmailMessage, sink: Sink) -> dict[str, Any]:
    sink.received.clear()
    backend = build_backend("sink", SMTP_BACKEND, {"host": sink.host, "port": sink.port})
    if not backend.send_messages([email]):
        return {"to": ()}  # Django sends nothing where there is no recipient
    (received,) = sink.received
    return as_delivered(received)


def as_delivered(received: Received) -> dict[str, Any]:
    """Return envelope and content."""
    return {
        "from": received.mail_from,
        "to": received.rcpt_tos,
        "content": describe(received.data),
    }
