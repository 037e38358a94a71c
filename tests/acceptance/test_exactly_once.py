"""Two hosts' worth of workers on one queue and one SMTP server: each mail arrives exactly once."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack

import pytest
from django.core.mail import EmailMessage
from django.db import connection

from pillarbox import send_emails
from pillarbox.models import Message, State
from tests.support.processes import running, wait_for, with_settings
from tests.support.smtp_sink import smtp_sink

WORKERS = 4
MAILS = 5000


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.django_db(transaction=True)
def test_four_workers_deliver_each_of_5000_mails_exactly_once(process_env: dict[str, str]) -> None:
    # SQLite has one writer at a time: it shows the same in a tenth of the mails.
    count = MAILS if connection.vendor != "sqlite" else MAILS // 10
    with smtp_sink() as sink, ExitStack() as workers:
        mailer = {
            "BACKEND": "pillarbox.backends.smtp.EmailBackend",
            "OPTIONS": {"host": sink.host, "port": sink.port},
        }
        env = with_settings(
            process_env,
            REMOVE=["MAILERS"],
            PILLARBOX={
                "ENGINE": "worker",
                "MAILERS": {"smtp": mailer},
                "STREAMS": {"default": {"mailers": ["smtp"]}},
            },
        )
        mails = (
            EmailMessage(f"n{number}", "body", to=[f"u{number}@example.org"])
            for number in range(count)
        )
        assert send_emails(mails) == count
        for _ in range(WORKERS):
            workers.enter_context(running(["-m", "django", "pillarbox", "worker"], env))
        unsent = Message.objects.exclude(state=State.SENT)
        wait_for(lambda: not unsent.exists(), timeout_s=240)

        came = Counter(received.rcpt_tos for received in sink.received)
    assert len(came) == count
    assert set(came.values()) == {1}
    assert Message.objects.filter(attempts=1).count() == count
    drains = Message.objects.order_by().values_list("drain", flat=True).distinct()
    assert set(drains) == {None}
