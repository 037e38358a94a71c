"""Celery and a task that calls ``send_mail``: no row, the mail is in the broker."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.mail import Mail
from benchmarks.place import Place
from benchmarks.subjects.base import Subject


class CelerySendMail(Subject):
    """On Redis, published when the transaction commits."""

    name, title = "celery", "Celery + send_mail"
    setup = (
        "Redis, `delay_on_commit`, `celery worker` with its default pool (a process a core); "
        "where connections are given as many threads"
    )
    packages = ("celery", "redis")
    drain_mails = 600

    def settings(self, place: Place) -> dict[str, Any]:
        """Name the broker."""
        return {"CELERY_BROKER_URL": place.redis_url()}

    def commands(self, place: Place, count: int) -> list[list[str]]:
        """Run its worker."""
        pool = ["--pool", "threads", "-c", str(place.connections)] if place.connections else []
        arguments = ["-A", "benchmarks.celery_app", "worker", "--loglevel", "WARNING", *pool]
        return [[sys.executable, "-m", "celery", *arguments]]

    def enqueue(self, mail: Mail) -> None:
        """Publish the task on commit."""
        from benchmarks.celery_app import send

        send.delay_on_commit(*mail.send_mail_arguments())

    def enqueue_bulk(self, mails: Sequence[Mail]) -> None:
        """Publish one after the other: Celery has no other way."""
        for mail in mails:
            self.enqueue(mail)


SUBJECTS = (CelerySendMail(),)
