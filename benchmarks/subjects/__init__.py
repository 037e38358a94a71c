"""All subjects, in the order of the page; a module here is one of them with its variants."""

from __future__ import annotations

from benchmarks.subjects import (
    bare,
    bare_sql,
    celery_send_mail,
    composers,
    django_mailer,
    django_q2_send_mail,
    django_tasks_send_mail,
    pillarbox_filled,
    pillarbox_mail,
    pillarbox_soaked,
    post_office,
)
from benchmarks.subjects.base import Subject

ALL: tuple[Subject, ...] = (
    *pillarbox_mail.SUBJECTS,
    *bare.SUBJECTS,
    *bare_sql.SUBJECTS,
    *post_office.SUBJECTS,
    *django_mailer.SUBJECTS,
    *celery_send_mail.SUBJECTS,
    *django_q2_send_mail.SUBJECTS,
    *django_tasks_send_mail.SUBJECTS,
    *composers.SUBJECTS,
    *pillarbox_filled.SUBJECTS,
)


def find(name: str) -> Subject:
    """Return the subject of that name. Raise KeyError if there is none."""
    return {subject.name: subject for subject in (*ALL, pillarbox_soaked.SOAKED)}[name]
