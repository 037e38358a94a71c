"""Django's tasks in the database (django-tasks-db) and a task that calls ``send_mail``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from benchmarks.mail import Mail
from benchmarks.place import Place, manage
from benchmarks.subjects.base import Subject
from benchmarks.subjects.django_q2_send_mail import MOST_PROCESSES


class DjangoTasksSendMail(Subject):
    """Its worker looks once a second while it finds nothing."""

    name, title = "django_tasks", "django-tasks-db + send_mail"
    setup = (
        "`manage.py db_worker` with its default interval, a process a core; "
        f"where connections are given up to {MOST_PROCESSES} processes"
    )
    packages = ("django-tasks-db",)
    drain_mails = 400
    remote_mails = 300

    def settings(self, place: Place) -> dict[str, Any]:
        """Name the backend."""
        backend = {"BACKEND": "django_tasks_db.DatabaseBackend", "QUEUES": ["default"]}
        return {"INSTALLED_APPS": ["django_tasks_db"], "TASKS": {"default": backend}}

    def commands(self, place: Place, count: int) -> list[list[str]]:
        """Run its workers."""
        processes = min(place.connections, MOST_PROCESSES) or os.cpu_count() or 1
        return [manage("db_worker", "-v", "0")] * processes

    def enqueue(self, mail: Mail) -> None:
        """Queue the task in the transaction."""
        from benchmarks.django_task import send

        send.enqueue(*mail.send_mail_arguments())

    def enqueue_bulk(self, mails: Sequence[Mail]) -> None:
        """Queue all in one transaction: the framework has no other way."""
        from django.db import transaction

        with transaction.atomic():
            for mail in mails:
                self.enqueue(mail)


SUBJECTS = (DjangoTasksSendMail(),)
