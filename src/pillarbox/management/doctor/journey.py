"""Sends one mail through the whole way and times each leg."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta

from pillarbox.api import send_email
from pillarbox.exceptions import InvalidMessage
from pillarbox.management.doctor.findings import Finding, bad, good
from pillarbox.models import FINISHED, Attempt, Message, State

LOOK_EVERY_S = 0.01
KEPT_FOR = timedelta(minutes=10)
"""Should no worker come, the mail is not sent later, when nobody waits for it any more."""


def follow(address: str, wait_s: float) -> Iterator[Finding]:
    """Queue a mail to ``address`` and report its legs.

    The claim and the beginning are counted from the commit, the rest from the leg before.
    """
    started = time.monotonic()
    try:
        message = _send(address)
    except InvalidMessage as error:
        yield bad("journey", str(error), "Pass one address, such as you@example.org.")
        return
    committed = time.monotonic()
    yield good("journey", f"Message {message.pk} is queued and committed", committed - started)
    claimed_s = None
    while not _has_ended(message) and time.monotonic() - committed < wait_s:
        if claimed_s is None and message.drain is not None:
            claimed_s = time.monotonic() - committed
        time.sleep(LOOK_EVERY_S)
        message.refresh_from_db()
    message.refresh_from_db()  # the attempt may have been seen before its message was
    if claimed_s is not None:
        yield good("journey", "A worker has claimed it", claimed_s)
    yield from _end(message, wait_s)


def _send(address: str) -> Message:
    message = send_email(
        "Pillarbox has delivered this",
        "`manage.py pillarbox doctor --send` sent this mail through the queue to see whether it "
        "arrives. It did.\n",
        [address],
        tags=["doctor"],
        expires_at=KEPT_FOR,
    )
    message.refresh_from_db()
    return message


def _has_ended(message: Message) -> bool:
    """Whether nothing more is to be seen: finished, in doubt, or tried in vain and queued again."""
    return message.state in {*FINISHED, State.IN_DOUBT} or message.trail.exists()


def _end(message: Message, wait_s: float) -> Iterator[Finding]:
    attempt = message.trail.last()
    if attempt is None:
        text = f"Message {message.pk} is {message.state} after {wait_s:g} s: nobody has sent it."
        yield bad("journey", text, "See what is said of the worker.")
        return
    reply = " ".join(filter(None, [str(attempt.code or ""), attempt.enhanced_code, attempt.reply]))
    took_s = (attempt.took_ms or 0) / 1000
    if attempt.result != Attempt.Result.SENT:
        text = f'{attempt.result.replace("_", " ")} by the mailer "{attempt.mailer}": {reply}'
        remedy = f"It came as far as {attempt.stage or 'nowhere'}; the message is {message.state}."
        yield bad("journey", text, remedy, took_s)
        return
    if message.finished_at is not None:  # the database's clock, as created_at is
        whole_s = (message.finished_at - message.created_at).total_seconds()
        yield good("journey", "Its conversation has begun", max(0.0, whole_s - took_s))
    yield good(
        "journey",
        f'The mailer "{attempt.mailer}" has sent it: {reply or "it keeps no reply"}',
        took_s,
    )
