"""A project's Celery app, as Celery's documentation tells Django users to write it."""

from celery import Celery

app = Celery("shop")
app.config_from_object("django.conf:settings", namespace="CELERY")
