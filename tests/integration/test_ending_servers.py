"""Servers that speak out of turn, or end a connection politely, or never end a reply."""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.test import override_settings

from pillarbox import send_email
from pillarbox.delivery.drain import drain
from pillarbox.delivery.senders.connections import pool
from pillarbox.engines.worker import Engine as Worker
from pillarbox.models import Attempt, Circuit, Message, State
from tests.support.mailers import delivering_to
from tests.support.scripted_smtp import Say, ScriptedServer, Step, Trickle

pytestmark = pytest.mark.django_db(transaction=True)

ESMTP = ("8BITMIME", "PIPELINING")
ONE_CONNECTION = override_settings(PILLARBOX={"CONNECTIONS": 1})


def mail(count: int) -> None:
    for number in range(count):
        send_email(f"n{number}", "body", ["ada@example.org"])


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ({Step.EHLO: Say("250-here\r\n250 PIPELINING\r\n250 and more")}, "250 (open)"),
        ({Step.EHLO: Say("250-here\r\n250 PIPELINING\r\n421 Busy", hang_up=True)}, "421 (open)"),
        ({Step.AUTH: Say("235 Welcome\r\n250 and more")}, "250 (open)"),
    ],
    ids=["more", "busy", "login"],
)
def test_a_server_that_speaks_out_of_turn_is_not_tried_again_at_once(
    script: dict[Step, Any], reason: str
) -> None:
    mail(6)
    options = {"username": "shop", "password": "of no worth"} if Step.AUTH in script else {}
    with (
        ScriptedServer(script, extensions=ESMTP, auth=bool(options)) as server,
        delivering_to(server, **options),
    ):
        assert drain(engine=Worker({})) == {"mailer_down": 1}
        assert server.connections == 1
        assert "MAIL" not in server.verbs
    assert Circuit.objects.get().reason == reason
    assert Message.objects.filter(state=State.QUEUED, attempts=0).count() == 6


def test_a_server_that_hangs_up_after_ehlo_is_not_tried_again_at_once() -> None:
    mail(6)
    script = {Step.EHLO: Say("250-here\r\n250 PIPELINING", hang_up=True)}
    with ONE_CONNECTION, ScriptedServer(script) as server, delivering_to(server):
        assert drain(engine=Worker({})) == {"mailer_down": 1}
        assert server.connections <= 2
    assert Circuit.objects.get().state == "open"
    assert not Message.objects.exclude(state=State.QUEUED, attempts=0).exists()


def test_a_421_after_some_mails_on_a_connection_is_but_its_end() -> None:
    mail(20)
    ends = Say("421 4.7.0 Enough for one connection", hang_up=True)
    with (
        ONE_CONNECTION,
        ScriptedServer({Step.MAIL: [*[None] * 5, ends] * 4}, extensions=ESMTP) as server,
        delivering_to(server),
    ):
        assert drain(engine=Worker({}))["sent"] == 20
        assert server.connections == 4
        assert len(server.accepted) == 20
        assert pool.allowance("default", 8) == 8
    assert not Circuit.objects.exists()
    assert not Message.objects.exclude(state=State.SENT, attempts=1).exists()


def test_a_kept_connection_that_carried_nothing_may_end() -> None:
    with ONE_CONNECTION, ScriptedServer(extensions=ESMTP) as server, delivering_to(server):
        pool.give_back(pool.take("default"))
        server.hang_up()
        mail(1)
        assert drain(engine=Worker({})) == {"sent": 1}
        assert server.connections == 2
    assert not Circuit.objects.exists()
    assert Attempt.objects.count() == 1


def test_a_reply_that_never_ends_is_not_waited_for() -> None:
    """RFC 5321 4.5.3.2 times a reply; its octets prove nothing."""
    mail(1)
    started = time.monotonic()
    with (
        ONE_CONNECTION,
        ScriptedServer({Step.MAIL: Trickle(0.1)}, extensions=ESMTP) as server,
        delivering_to(server, timeout=1),
    ):
        assert drain(engine=Worker({})) == {"mailer_down": 1}
    assert time.monotonic() - started < 5
    assert Message.objects.get().state == State.QUEUED
