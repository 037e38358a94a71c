"""django-mailer: ``manage.py runmailer_pg``, which waits for NOTIFY; a lock allows one of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.mail import Mail, deliver
from benchmarks.place import Place, manage
from benchmarks.subjects.base import Subject


class DjangoMailer(Subject):
    """Its backend queues what ``send_mail`` sends."""

    name, title = "django_mailer", "django-mailer"
    setup = "`EMAIL_BACKEND` is its DbBackend; `manage.py runmailer_pg`, one process"
    packages = ("django-mailer",)
    remote_mails = 150

    def settings(self, place: Place) -> dict[str, Any]:
        """Let its backend queue and Django's send."""
        return {
            "INSTALLED_APPS": ["mailer"],
            "EMAIL_BACKEND": "mailer.backend.DbBackend",
            "MAILER_EMAIL_BACKEND": "django.core.mail.backends.smtp.EmailBackend",
            "MAILER_LOCK_PATH": str(Path(place.folder) / "mailer"),
        }

    def commands(self, place: Place, count: int) -> list[list[str]]:
        """Run its loop."""
        return [manage("runmailer_pg")]

    def enqueue(self, mail: Mail) -> None:
        """Call Django's ``send_mail``."""
        deliver(*mail.send_mail_arguments())

    def enqueue_bulk(self, mails: Sequence[Mail]) -> None:
        """Hand all to its backend, which inserts them together."""
        from django.core.mail import get_connection

        get_connection().send_messages([mail.email() for mail in mails])


SUBJECTS = (DjangoMailer(),)
