"""django-q2 and a task that calls ``send_mail``, over the database or over Redis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.mail import Mail
from benchmarks.place import Place, manage
from benchmarks.subjects.base import Subject

MOST_PROCESSES = 8
"""Of a subject that has one connection in a process: more would only fill the memory."""


def cluster(broker: str, place: Place) -> dict[str, Any]:
    """Return ``Q_CLUSTER`` as both packages' documentation has it."""
    redis = {"host": "127.0.0.1", "port": place.redis_port, "db": 0}
    where = {"redis": redis} if broker == "redis" else {"orm": "default"}
    return {"name": "benchmarks", "timeout": 60, "retry": 120, **where}


class DjangoQ2SendMail(Subject):
    """A process a core, where connections are given up to eight."""

    packages = ("django-q2", "redis")
    drain_mails = 200
    remote_mails = 200

    def __init__(self, broker: str) -> None:
        self.broker = broker
        self.name = "django_q2" + ("_redis" if broker == "redis" else "")
        self.title = f"django-q2 ({broker}) + send_mail"
        self.setup = (
            f"`manage.py qcluster`, broker: {broker}, a process a core; "
            f"where connections are given up to {MOST_PROCESSES} processes"
        )

    def settings(self, place: Place) -> dict[str, Any]:
        """Add the cluster."""
        conf = cluster(self.broker, place)
        if place.connections:
            conf["workers"] = min(place.connections, MOST_PROCESSES)
        return {"INSTALLED_APPS": ["django_q"], "Q_CLUSTER": conf}

    def commands(self, place: Place, count: int) -> list[list[str]]:
        """Run the cluster."""
        return [manage("qcluster")]

    def enqueue(self, mail: Mail) -> None:
        """Queue the task in the transaction, or on its commit where Redis has the queue."""
        from django.db import transaction
        from django_q.tasks import async_task

        arguments = ("benchmarks.mail.deliver", *mail.send_mail_arguments())
        if self.broker == "redis":
            transaction.on_commit(lambda: async_task(*arguments))
        else:
            async_task(*arguments)

    def enqueue_bulk(self, mails: Sequence[Mail]) -> None:
        """Queue all in one transaction: django-q2 has no other way."""
        from django.db import transaction

        with transaction.atomic():
            for mail in mails:
                self.enqueue(mail)


SUBJECTS = (DjangoQ2SendMail("ORM"), DjangoQ2SendMail("redis"))
