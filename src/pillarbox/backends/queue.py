"""The drop-in Django backend that queues instead of sending; another mailer delivers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.db import DatabaseError, router, transaction

from pillarbox.exceptions import PillarboxError
from pillarbox.models import Message
from pillarbox.outbox import Options, enqueue


class EmailBackend(BaseEmailBackend):
    """Queues every message in the caller's transaction; for ``MAILERS`` and ``EMAIL_BACKEND``.

    ``using`` is the alias of the mailer that delivers, for streams that name none. Options for one
    message ride on ``message.pillarbox = {"stream": "bulk", …}``. With ``fail_silently`` a message
    that cannot be queued is left out of the count instead of raising.
    """

    is_queueing = True

    def __init__(
        self, fail_silently: bool = False, *, using: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.fail_silently = fail_silently
        self.using = using or ""

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        """Queue the messages that have recipients; return how many were queued.

        Raise InvalidMessage or IdempotencyConflict at the first that cannot be queued; those
        before it are queued, as they would have been sent by Django's own backends.
        """
        queued = 0
        for email in email_messages:
            if not email.recipients():
                continue
            try:
                with self._savepoint():
                    enqueue(email, Options(using=self.using))
            except (PillarboxError, ValueError, DatabaseError):
                if not self.fail_silently:
                    raise
            else:
                queued += 1
        return queued

    def _savepoint(self) -> AbstractContextManager[Any]:
        """Keep a failure that is to be silent from breaking the caller's transaction."""
        if self.fail_silently:
            return transaction.atomic(using=router.db_for_write(Message))
        return nullcontext()
