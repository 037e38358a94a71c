"""Pillarbox: its own worker, and its engines where they make a difference."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, ClassVar

from benchmarks.mail import SENDER, Mail
from benchmarks.place import Place, manage
from benchmarks.subjects.base import Subject
from benchmarks.subjects.django_q2_send_mail import cluster

_QCLUSTER = "`manage.py qcluster`, `Q_CLUSTER` with `timeout` 60 and `retry` 120"


class Pillarbox(Subject):
    """``send_email()`` and ``send_emails()``; the mailer is Pillarbox's SMTP backend."""

    packages: ClassVar[Sequence[str]] = ("django-pillarbox",)
    engine = "worker"

    def settings(self, place: Place) -> dict[str, Any]:
        """Name the engine and one mailer; share the connections among the processes."""
        backend = "pillarbox.backends.smtp.EmailBackend"
        pillarbox: dict[str, Any] = {
            "ENGINE": self.engine,
            "MAILERS": {"smtp": {"BACKEND": backend, "OPTIONS": place.smtp_options()}},
            "STREAMS": {"default": {"mailers": ["smtp"]}},
        }
        if connections := place.connections // self.processes or self.connections:
            pillarbox["CONNECTIONS"] = connections
        return {"INSTALLED_APPS": ["pillarbox"], "PILLARBOX": pillarbox}

    processes = 1
    connections = 0
    """Of each process, where the place does not say how many; 0: the default."""

    def commands(self, place: Place, count: int) -> list[list[str]]:
        """Run so many workers."""
        return [manage("pillarbox", "worker")] * self.processes

    def enqueue(self, mail: Mail) -> None:
        """Call ``send_email``."""
        from pillarbox import send_email

        send_email(mail.subject, mail.text, [mail.recipient], from_email=SENDER, html=mail.html)

    def enqueue_bulk(self, mails: Sequence[Mail]) -> None:
        """Call ``send_emails`` with Django's messages."""
        from pillarbox import send_emails

        send_emails(mail.email() for mail in mails)


class Workers(Pillarbox):
    """The ``worker``, in one process or two."""

    remote_mails = 3000

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self.drain_mails = 8000 if processes == 1 else 12_000
        self.cases = ("enqueue", "drain", "latency") if processes == 1 else ("drain",)
        self.name = "pillarbox" if processes == 1 else f"pillarbox_{processes}"
        self.title = f"Pillarbox, {processes} worker" + ("s" if processes > 1 else "")
        self.setup = f"{processes} × `manage.py pillarbox worker`, default settings"


class Wide(Workers):
    """Two workers with more connections than to somebody else's mail server are polite."""

    connections = 64

    def __init__(self) -> None:
        super().__init__(2)
        self.cases, self.drain_mails = ("drain_local",), 24_000
        self.name = "pillarbox_2_wide"
        self.title = f"Pillarbox, 2 workers with {self.connections} connections each"
        self.setup = f"2 × `manage.py pillarbox worker`, CONNECTIONS {self.connections}"


class OnSqlite(Pillarbox):
    """The worker on SQLite."""

    name, title = "pillarbox_sqlite", "Pillarbox on SQLite, 1 worker"
    setup = (
        "1 × `manage.py pillarbox worker`, default settings; SQLite as its page recommends: "
        "`journal_mode=WAL`, `synchronous=NORMAL`, `IMMEDIATE`; its CPU is the worker's"
    )
    cases = ("drain_local",)
    vendor = "sqlite"
    drain_mails = 8000


class OnCelery(Pillarbox):
    """Woken through Celery."""

    name, title = "pillarbox_celery", "Pillarbox on Celery"
    setup = 'ENGINE "celery", Redis, `celery worker` with its default pool'
    engine = "celery"
    cases = ("enqueue_single", "drain_local", "latency")
    packages = ("django-pillarbox", "celery", "redis")
    drain_mails = 4000

    def settings(self, place: Place) -> dict[str, Any]:
        """Add the broker."""
        return {**super().settings(place), "CELERY_BROKER_URL": place.redis_url()}

    def commands(self, place: Place, count: int) -> list[list[str]]:
        """Run Celery's worker."""
        arguments = ["-A", "benchmarks.celery_app", "worker", "--loglevel", "WARNING"]
        return [[sys.executable, "-m", "celery", *arguments]]

    def enqueue(self, mail: Mail) -> None:
        """Make sure that the app is there before the first wake."""
        import benchmarks.celery_app  # noqa: F401

        super().enqueue(mail)

    def enqueue_bulk(self, mails: Sequence[Mail]) -> None:
        """Make sure that the app is there before the wake."""
        import benchmarks.celery_app  # noqa: F401

        super().enqueue_bulk(mails)


class OnDjangoQ2(Pillarbox):
    """Woken through django-q2, over the database or over Redis."""

    engine = "django_q2"
    cases = ("enqueue_single", "drain_local", "latency")
    packages = ("django-pillarbox", "django-q2")
    drain_mails = 4000

    def __init__(self, broker: str) -> None:
        self.broker = broker
        self.name = "pillarbox_q2" + ("_redis" if broker == "redis" else "")
        self.title = f"Pillarbox on django-q2 ({broker})"
        self.setup = f'ENGINE "django_q2", broker: {broker}; {_QCLUSTER}'

    def settings(self, place: Place) -> dict[str, Any]:
        """Add the cluster."""
        given = super().settings(place)
        apps = [*given["INSTALLED_APPS"], "django_q"]
        return {**given, "INSTALLED_APPS": apps, "Q_CLUSTER": cluster(self.broker, place)}

    def commands(self, place: Place, count: int) -> list[list[str]]:
        """Run the cluster."""
        return [manage("qcluster")]


class Immediate(Pillarbox):
    """In the caller's own thread, on commit."""

    name, title = "pillarbox_immediate", "Pillarbox, immediate"
    setup = 'ENGINE "immediate": the caller delivers on commit'
    engine = "immediate"
    cases = ("latency",)

    def commands(self, place: Place, count: int) -> list[list[str]]:
        """Need no worker."""
        return []


SUBJECTS = (
    Workers(1),
    Workers(2),
    Wide(),
    OnSqlite(),
    OnCelery(),
    OnDjangoQ2("ORM"),
    OnDjangoQ2("redis"),
    Immediate(),
)
