"""What the processes of the stress tests do beside `manage.py`.

``python -m tests.support.stress queue 300 hold`` queues mail under that policy;
``hasty`` is a `worker` whose lease runs out after 2 s instead of 15, so that a test need not wait;
``crowded`` is a `worker` beside threads that fight for the few connections of a pool.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from unittest import mock

import django
from django.core.management import call_command

LEASE_S = 2.0
CROWD = 4
CROWDED_S = 3.0
"""For how long the crowd holds every connection before the worker has any."""


def queue(count: str, in_doubt: str) -> None:
    """Queue mail in one transaction."""
    from django.core.mail import EmailMessage

    from pillarbox import send_emails

    mails = (EmailMessage(f"n{n}", "body", to=[f"u{n}@example.org"]) for n in range(int(count)))
    send_emails(mails, in_doubt=in_doubt)  # type: ignore[arg-type]


def hasty() -> None:
    """Run a worker all of whose times are a seventh of what they are."""
    from pillarbox.delivery import claims, drain, leases

    lease = timedelta(seconds=LEASE_S)
    with (
        mock.patch.object(claims, "LEASE", lease),
        mock.patch.object(leases, "LEASE", lease),
        mock.patch.object(leases, "RENEW_EVERY_S", LEASE_S / 3),
        mock.patch.object(leases, "STALE_AFTER_S", LEASE_S * 2 / 3),
        mock.patch.object(drain, "TEND_EVERY_S", LEASE_S / 3),
    ):
        call_command("pillarbox", "worker")


def crowded() -> None:
    """Run a worker where others always want a connection of the same pool."""
    for _ in range(CROWD):
        threading.Thread(target=_crowd, daemon=True).start()
    time.sleep(0.5)
    call_command("pillarbox", "worker")


def _crowd() -> None:
    from django.db import OperationalError, connection

    hold_s = CROWDED_S
    while True:
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
                time.sleep(hold_s)
        except OperationalError:
            time.sleep(0.01)
        finally:
            connection.close()
        hold_s = random.uniform(0.1, 0.3)


if __name__ == "__main__":
    django.setup()
    parts: dict[str, Callable[..., None]] = {"queue": queue, "hasty": hasty, "crowded": crowded}
    parts[sys.argv[1]](*sys.argv[2:])
