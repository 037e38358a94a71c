"""Takes each message that is rendered or sent through encode and decode first.

Nothing of Django's tests is known here: what they build, call and expect stays theirs.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import wraps
from typing import Any

from django.core.mail import DNS_NAME, EmailMessage, make_msgid
from django.core.mail.backends import console, dummy, filebased, locmem, smtp

from pillarbox import codec
from pillarbox.attachments import MemoryBlobs

_state = threading.local()


COUNTED = "messages carried by the codec:"
_count = 0


def install() -> None:
    """Patch ``EmailMessage.message()`` and every backend, ours in the place of Django's SMTP."""
    if os.environ.get("PILLARBOX_DJANGO_SUITE") == "backend":
        from pillarbox.backends.smtp import EmailBackend

        smtp.EmailBackend = EmailBackend  # type: ignore[misc]
    _patch_message()
    for module in (console, dummy, filebased, locmem, smtp):
        _patch_backend(module.EmailBackend)
    atexit.register(lambda: print(COUNTED, _count, file=sys.stderr))


@contextmanager
def _carried() -> Iterator[None]:
    """Mark what the codec itself renders, which is not to be taken through it again."""
    before = getattr(_state, "is_carried", False)
    _state.is_carried = True
    try:
        yield
    finally:
        _state.is_carried = before


def through_the_queue(email: Any, *, smtp: bool) -> EmailMessage:
    """Return what a worker would send for ``email``; raise what the call would raise."""
    global _count
    with _carried():
        codec.check(email, smtp=smtp)
        blobs = MemoryBlobs()
        content = codec.encode(
            email, blobs, message_id=make_msgid(domain=str(DNS_NAME)), date=datetime.now(UTC)
        )
        assert content.isascii()
        _count += 1
        return codec.decode(content, blobs)


def _patch_message() -> None:
    render = EmailMessage.message

    @wraps(render)
    def message(self: EmailMessage, **options: Any) -> Any:
        if getattr(_state, "is_carried", False) or codec.renders_itself(self):
            return render(self, **options)
        twin = through_the_queue(self, smtp=False)
        with _carried():
            return twin.message(**options)

    EmailMessage.message = message  # type: ignore[method-assign]


def _patch_backend(backend: Any) -> None:
    send = backend.send_messages

    @wraps(send)
    def send_messages(self: Any, messages: Iterable[EmailMessage]) -> Any:
        twins = [
            through_the_queue(one, smtp=backend is smtp.EmailBackend) if one.recipients() else one
            for one in messages
        ]
        with _carried():
            return send(self, twins)

    if not hasattr(send, "__wrapped__"):  # inherited from one that has it already
        backend.send_messages = send_messages
