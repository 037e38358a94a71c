"""A circuit is shared by every drain, and exactly one of them tries the mailer again."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.db import connection, connections
from django.test.utils import CaptureQueriesContext

from pillarbox.delivery import circuits
from pillarbox.delivery.circuits import Circuits, open_for, reason_of, trial_shows
from pillarbox.delivery.outcomes import (
    Fail,
    InDoubt,
    MailerDown,
    Outcome,
    Reply,
    Retry,
    Sent,
    Stage,
    classify,
)
from pillarbox.models import Circuit, DatabaseNow, database_now

pytestmark = pytest.mark.django_db(transaction=True)

REFUSED = MailerDown(reply=Reply(text="ConnectionRefusedError: [Errno 111]"), stage=Stage.OPEN)


def drain() -> Circuits:
    made = Circuits(uuid.uuid4(), "default")
    made.look(now=True)
    return made


def row() -> Circuit:
    return Circuit.objects.get(mailer="smtp")


def let_it_be_tried() -> None:
    Circuit.objects.update(open_until=DatabaseNow(timedelta(seconds=-1)))


def at_once(works: list[Callable[[], Any]]) -> list[Any]:
    """Run each in a thread of its own, all starting together."""
    start, results = threading.Barrier(len(works)), []

    def run(work: Callable[[], Any]) -> None:
        start.wait()
        try:
            results.append(work())
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(results) == len(works)
    return results


def test_a_mailer_without_a_fault_needs_no_row_and_one_look() -> None:
    mine = drain()
    with CaptureQueriesContext(connection) as queries:
        for _ in range(20):
            mine.look()
    assert mine.unavailable() == set()
    assert len(queries) == 0
    assert not Circuit.objects.exists()


def test_a_fault_opens_the_circuit_for_every_drain(caplog: pytest.LogCaptureFixture) -> None:
    first, second = drain(), drain()
    first.open("smtp", REFUSED)
    second.look(now=True)
    assert first.unavailable() == second.unavailable() == {"smtp"}
    assert second.to_be_tried() == set()
    circuit = row()
    assert (circuit.state, circuit.failures) == ("open", 1)
    assert circuit.reason == "ConnectionRefusedError (open)"
    assert circuit.open_until is not None
    assert 25 < (circuit.open_until - database_now("default")).total_seconds() <= 30
    assert "Mailer smtp: circuit opens for 30 s (ConnectionRefusedError (open))." in caplog.text


def test_a_circuit_whose_row_was_made_at_a_full_second_opens_too() -> None:
    Circuit.objects.create(mailer="smtp")
    if connection.vendor == "sqlite":
        full_second = "strftime('%Y-%m-%d %H:%M:%S', 'now') || '.000000'"  # as it writes it itself
        with connection.cursor() as cursor:
            cursor.execute(f"UPDATE pillarbox_circuit SET since = {full_second}")
    drain().open("smtp", REFUSED)
    assert row().state == Circuit.State.OPEN


def test_a_fault_that_many_drains_find_counts_once() -> None:
    drains = [drain() for _ in range(4)]
    at_once([partial(mine.open, "smtp", REFUSED) for mine in drains])
    assert (row().state, row().failures) == ("open", 1)


def test_before_its_time_nobody_tries_it() -> None:
    mine = drain()
    mine.open("smtp", REFUSED)
    assert not mine.take_probe("smtp")
    assert row().state == "open"


def test_of_many_drains_one_tries_it() -> None:
    drain().open("smtp", REFUSED)
    let_it_be_tried()
    drains = [drain() for _ in range(5)]
    assert all(each.to_be_tried() == {"smtp"} for each in drains)
    won = at_once([partial(mine.take_probe, "smtp") for mine in drains])
    assert sorted(won) == [False] * 4 + [True]
    circuit = row()
    assert circuit.state == "half_open"
    assert [each.drain for each in drains if each.probing] == [circuit.probe]
    assert all(each.to_be_tried() == set() for each in drains)
    assert all(each.unavailable() == {"smtp"} for each in drains)


def test_a_trial_that_succeeds_closes_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pillarbox.delivery")
    mine, other = drain(), drain()
    mine.open("smtp", REFUSED)
    let_it_be_tried()
    assert mine.take_probe("smtp")
    mine.close("smtp")
    other.look(now=True)
    assert mine.unavailable() == other.unavailable() == mine.probing == set()
    circuit = row()
    assert (circuit.state, circuit.failures, circuit.probe) == ("closed", 0, None)
    assert "Mailer smtp: circuit closes." in caplog.text


def test_each_trial_that_fails_doubles_the_wait_up_to_ten_minutes() -> None:
    mine = drain()
    mine.open("smtp", REFUSED)
    waits = []
    for _ in range(7):
        let_it_be_tried()
        mine.look(now=True)
        assert mine.take_probe("smtp")
        mine.open("smtp", REFUSED)
        open_until = row().open_until
        assert open_until is not None
        waits.append(round((open_until - database_now("default")).total_seconds() + 0.4))
    assert waits == [60, 120, 240, 480, 600, 600, 600]
    assert row().failures == 8
    assert [open_for(n).total_seconds() for n in (1, 2, 5, 6, 1000)] == [30, 60, 480, 600, 600]


def test_a_drain_that_died_in_its_trial_does_not_hold_it_for_ever() -> None:
    dead, next_one = drain(), drain()
    dead.open("smtp", REFUSED)
    let_it_be_tried()
    assert dead.take_probe("smtp")
    next_one.look(now=True)
    assert next_one.to_be_tried() == set()
    Circuit.objects.update(probe_until=DatabaseNow(timedelta(seconds=-1)))
    next_one.look(now=True)
    assert next_one.take_probe("smtp")
    dead.close("smtp")  # it was only slow: its word counts no more
    assert (row().state, row().probe) == ("half_open", next_one.drain)


def test_a_drain_that_lives_keeps_its_trial() -> None:
    mine = drain()
    mine.open("smtp", REFUSED)
    let_it_be_tried()
    mine.take_probe("smtp")
    Circuit.objects.update(probe_until=DatabaseNow(timedelta(seconds=1)))
    mine.keep_probes()
    probe_until = row().probe_until
    assert probe_until is not None
    assert (probe_until - database_now("default")).total_seconds() > 10


def test_a_trial_given_up_is_another_drains_at_once() -> None:
    mine, other = drain(), drain()
    mine.open("smtp", REFUSED)
    let_it_be_tried()
    mine.take_probe("smtp")
    mine.release_probe("smtp")
    other.look(now=True)
    assert other.take_probe("smtp")
    assert row().failures == 1


def test_a_paused_mailer_carries_nothing_and_is_not_tried() -> None:
    assert circuits.pause("smtp", "default")
    assert not circuits.pause("smtp", "default")
    mine = drain()
    assert mine.unavailable() == {"smtp"}
    assert mine.to_be_tried() == set()
    assert mine.next_trial_s({"smtp"}) is None
    assert circuits.resume("smtp", "default")
    assert not circuits.resume("smtp", "default")
    mine.look(now=True)
    assert mine.unavailable() == set()


def test_a_pause_outlives_what_becomes_of_the_circuit() -> None:
    mine = drain()
    mine.open("smtp", REFUSED)
    circuits.pause("smtp", "default")
    let_it_be_tried()
    assert not mine.take_probe("smtp")
    circuits.resume("smtp", "default")
    assert row().state == "open"
    assert mine.take_probe("smtp")


def test_the_next_trial_is_known_in_advance() -> None:
    mine = drain()
    mine.open("smtp", REFUSED)
    wait_s = mine.next_trial_s({"smtp", "other"})
    assert wait_s is not None
    assert 25 < wait_s <= 30
    assert mine.next_trial_s({"other"}) is None


@pytest.mark.parametrize(
    ("outcome", "shown"),
    [
        (Sent(stage=Stage.SEND), True),
        (Fail(reply=Reply(550), stage=Stage.RCPT), True),
        (Fail(reply=Reply(text="AnymailAPIError: no"), stage=Stage.SEND), True),
        (Retry(reply=Reply(451), stage=Stage.MAIL), True),
        (Retry(reply=Reply(text="SMTPServerDisconnected: gone"), stage=Stage.RCPT), False),
        (InDoubt(reply=Reply(text="TimeoutError: timed out"), stage=Stage.DOT), False),
        (MailerDown(reply=Reply(421), stage=Stage.MAIL), False),
        (Fail(reply=Reply(text="ValueError: broken"), stage=Stage.RENDER), None),
    ],
    ids=["sent", "refused", "api-refused", "later", "hung-up", "silent", "closing", "unrendered"],
)
def test_what_a_trial_shows(outcome: Outcome, *, shown: bool | None) -> None:
    assert trial_shows(outcome) is shown


def test_a_reason_is_a_code_or_a_class_and_never_a_servers_words() -> None:
    spoken = Reply(535, "5.7.8", "ada@example.org may not log in")
    assert reason_of(MailerDown(reply=spoken, stage=Stage.OPEN)) == "535 5.7.8 (open)"
    refused = classify(ConnectionRefusedError(111, "refused by ada@x"), stage=Stage.OPEN)
    assert reason_of(refused) == "ConnectionRefusedError (open)"
    http = MailerDown(reply=Reply(text="HTTP 401: bad key for ada@x"), stage=Stage.SEND)
    assert reason_of(http) == "HTTP 401 (send)"
    odd = MailerDown(reply=Reply(text="ada@example.org: what"), stage=Stage.SEND)
    assert reason_of(odd) == "no reply (send)"
