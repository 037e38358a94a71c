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
    """Queue a mail to ``address`` and report each leg: committed, claimed, begun, answered."""
    started = time.monotonic()
    try:
        message = _send(address)
    except InvalidMessage as error:
        yield bad("journey", str(error), "Pass one address, such as you@example.org.")
        return
    committed = time.monotonic()
    yield good("journey", f"Message {message.pk} is queued and committed", committed - started)
    claimed = None
    while not _has_ended(message) and time.monotonic() - committed < wait_s:
        if claimed is None and message.drain is not None:
            claimed = time.monotonic() - committed
        time.sleep(LOOK_EVERY_S)
        message.refresh_from_db()
    yield from _legs(message, claimed)
    yield _end(message, wait_s)


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


def _legs(message: Message, claimed: float | None) -> Iterator[Finding]:
    """Report the legs by the database's clock; the claim leaves no time, so it was watched for."""
    if message.begun_at is None:
        return
    begun_s = max(0.0, (message.begun_at - message.created_at).total_seconds())
    if claimed is not None:
        yield good("journey", "A worker has claimed it", min(claimed, begun_s))
    yield good("journey", "From the commit to the conversation", begun_s)


def _end(message: Message, wait_s: float) -> Finding:
    attempt = message.trail.last()
    if attempt is None:
        text = f"Message {message.pk} is {message.state} after {wait_s:g} s: nobody has sent it."
        return bad("journey", text, "See what is said of the worker.")
    reply = " ".join(filter(None, [str(attempt.code or ""), attempt.reply]))
    took_s = None if attempt.took_ms is None else attempt.took_ms / 1000
    if attempt.result == Attempt.Result.SENT:
        text = f'The mailer "{attempt.mailer}" has sent it: {reply or "it says no more"}'
        return good("journey", text, took_s)
    text = f'{attempt.result.replace("_", " ")} by the mailer "{attempt.mailer}": {reply}'
    remedy = f"It came as far as {attempt.stage or 'nowhere'}; the message is {message.state}."
    return bad("journey", text, remedy, took_s)
