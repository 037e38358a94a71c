"""All that an engine can call: three jobs without arguments, so that a broker holds no content."""

from __future__ import annotations

import logging

from django.db import router

from pillarbox import retention
from pillarbox.delivery import recovery, report
from pillarbox.delivery.drain import drain
from pillarbox.delivery.keeping import kept_connection
from pillarbox.models import Message

logger = logging.getLogger("pillarbox.jobs")


def deliver_due() -> None:
    """Deliver what is due. A mailer's or a message's fault is recorded, never raised."""
    with kept_connection(router.db_for_write(Message)):
        drain()


def sweep() -> None:
    """Recover what dead drains held and deliver what no wake has found."""
    for message in recovery.recover(router.db_for_write(Message)):
        report.found_in_doubt(message)
    drain()


def prune() -> None:
    """Erase and delete what is older than ``RETENTION``, in transactions of 1,000 rows."""
    done = retention.Pruned()
    for done in retention.prune(router.db_for_write(Message)):
        logger.info("Pruned so far: %s", done)
    logger.info("Pruned: %s", done)
