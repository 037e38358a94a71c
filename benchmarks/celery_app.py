"""The Celery app of the subjects that have one, and the task that calls ``send_mail``."""

from __future__ import annotations

from celery import Celery

from benchmarks.mail import deliver

app = Celery("benchmarks")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@app.task(ignore_result=True)
def send(subject: str, text: str, html: str, recipients: list[str]) -> None:
    """Send it now."""
    deliver(subject, text, html, recipients)
