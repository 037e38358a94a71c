"""Erases content and prunes rows by ``RETENTION``; it never touches an unfinished message."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from django.db import models, transaction
from django.db.models import QuerySet

from pillarbox import attachments
from pillarbox.conf import get_settings
from pillarbox.models import FINISHED, Message, database_now

BATCH = 1000


@dataclass
class Pruned:
    """How many messages lost their content, how many rows went, how many attachments."""

    erased: int = 0
    deleted: int = 0
    attachments: int = 0


def erase_sensitive(using: str, messages: Iterable[Message]) -> None:
    """Erase the finished among ``messages`` that are sensitive, in the caller's transaction."""
    erase(using, [row for row in messages if row.sensitive and row.is_finished])


def erase(using: str, messages: Iterable[Message]) -> int:
    """Erase the content of messages: body, attachments, and the subject where sensitive."""
    rows = list(messages)
    if not rows:
        return 0
    pks = sorted(row.pk for row in rows)
    chosen = Message.objects.using(using).filter(pk__in=pks)
    Message.attachments.through.objects.using(using).filter(message_id__in=pks).delete()
    erased = chosen.update(
        content="",
        subject=models.Case(
            models.When(sensitive=True, then=models.Value("")), default=models.F("subject")
        ),
    )
    for row in rows:
        row.content = ""
        row.subject = "" if row.sensitive else row.subject
    return erased


def prune(using: str) -> Iterator[Pruned]:
    """Erase and delete what is older than ``RETENTION``, batch by batch; yield the sums so far.

    Each batch of 1,000 is a transaction of its own. Age counts from ``finished_at`` and to the
    moment of the call: under a steady load something more is old by the end of every batch.
    """
    settings = get_settings()
    now = database_now(using)
    done = Pruned()
    finished = Message.objects.using(using).filter(state__in=FINISHED)
    old = finished.filter(finished_at__lt=now - settings.retention_content)
    for rows in _batches(old.exclude(content="")):
        with transaction.atomic(using=using):
            done.erased += erase(using, rows)
        yield done
    very_old = finished.filter(finished_at__lt=now - settings.retention_rows)
    for rows in _batches(very_old):
        with transaction.atomic(using=using):
            Message.objects.using(using).filter(pk__in=[row.pk for row in rows]).delete()
        done.deleted += len(rows)
        yield done
    done.attachments += attachments.prune(using)
    yield done


def _batches(queryset: QuerySet[Message]) -> Iterator[list[Message]]:
    """Yield the rows in one pass: each batch looks on where the last one ended."""
    these = queryset.only("pk", "state", "sensitive", "subject").order_by("pk")
    last = 0
    while rows := list(these.filter(pk__gt=last)[:BATCH]):
        yield rows
        last = rows[-1].pk
