"""A stream with a rate keeps to it on the wire, whoever drains, and holds up no other stream."""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from email import message_from_bytes
from typing import Any

import pytest
from django.core.mail import EmailMessage
from django.db import connections
from django.test import override_settings

from pillarbox import send_email, send_emails
from pillarbox.delivery import claims, ways
from pillarbox.delivery.drain import drain
from pillarbox.delivery.leases import Lease
from pillarbox.engines.base import Deadline, Engine
from pillarbox.engines.worker import Engine as Worker
from pillarbox.models import Bucket, DatabaseNow, Drain, Message, State
from tests.support.mailers import delivering_to
from tests.support.processes import wait_for
from tests.support.scripted_smtp import Say, ScriptedServer, Step
from tests.support.smtp_sink import Sink, smtp_sink

pytestmark = pytest.mark.django_db(transaction=True)


class Job(Engine):
    """An engine whose drains are counted and end by themselves; it wakes nobody."""

    name = "job"
    drain_s: float | None = 8.0

    def async_task(self, dotted_path: str, *, delay: Any = None) -> None:
        """Lose the wake."""

    def deadline(self) -> Deadline:
        return Deadline(self.drain_s, 60.0)

    def ping(self) -> str:
        return ""


@contextmanager
def draining(count: int = 1, engine: Engine | None = None, **options: Any) -> Iterator[list[float]]:
    """Run drains in threads while the block lasts; yield the moments at which they ended."""
    ended: list[float] = []
    stop = threading.Event()

    def run() -> None:
        try:
            drain(engine=engine or Job({}), stop=stop, **options)
            ended.append(time.monotonic())
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield ended
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
        assert len(ended) == count


class Came(list[tuple[float, str]]):
    """What came to the sink: when, and with which subject."""

    sink: Sink


@pytest.fixture
def came(monkeypatch: pytest.MonkeyPatch) -> Iterator[Came]:
    """Deliver to a sink, and note when which subject came."""
    came = Came()
    with smtp_sink() as sink, delivering_to(sink):
        came.sink = sink
        original = sink.handle_DATA

        async def handle_DATA(server: Any, session: Any, envelope: Any) -> str:
            subject = str(message_from_bytes(envelope.content)["Subject"])
            came.append((time.monotonic(), subject))
            return await original(server, session, envelope)

        monkeypatch.setattr(sink, "handle_DATA", handle_DATA)
        yield came


def bulk(**stream: Any) -> override_settings:
    """Let there be a stream bulk with these settings."""
    return override_settings(PILLARBOX={"STREAMS": {"default": {}, "bulk": stream}})


def queue(count: int, *, stream: str = "bulk", to: int = 1) -> None:
    mails = (
        EmailMessage(f"{stream} {n}", "body", to=[f"u{k}@example.org" for k in range(to)])
        for n in range(count)
    )
    assert send_emails(mails, stream=stream) == count


def in_a_second(moments: list[float]) -> list[int]:
    """Return how many came within a second from each of the moments on."""
    return [sum(start <= at < start + 1 for at in moments) for start in moments]


@bulk(rate="20/s")
def test_two_drains_share_a_rate_and_it_is_smooth(came: Came) -> None:
    queue(60)
    with draining(2):
        came.sink.wait_for(60, timeout_s=20)
    moments = [at for at, _ in came]
    # One second's worth is there at the start, the other 40 flow in; the first may be seen late.
    assert 1.5 <= moments[-1] - moments[0] < 5
    # What was claimed may come late, and together with what comes in time.
    assert max(in_a_second(moments)) <= 3 * 20
    assert statistics.median(in_a_second(moments[20:])) <= 30
    assert Message.objects.filter(state=State.SENT, attempts=1).count() == 60


@bulk(rate="40/s")
def test_a_large_message_goes_at_once_and_the_next_one_waits_for_its_debt(came: Came) -> None:
    queue(1, to=100)
    queue(1)
    started = time.monotonic()
    with draining():
        came.sink.wait_for(2, timeout_s=20)
    first, second = (at for at, _ in came)
    assert first - started < 1.3
    assert 1.3 <= second - started < 4.5  # (61 / 40 s)


@bulk(rate="20/s")
def test_a_large_message_is_not_overtaken_by_small_ones_of_lower_priority(came: Came) -> None:
    Bucket.objects.create(stream="bulk", mailer="default", tokens=5, filled_at=DatabaseNow())
    queue(5)
    everybody = [f"u{k}@example.org" for k in range(30)]
    send_email("large", "body", everybody, stream="bulk", priority="high")
    with draining():
        came.sink.wait_for(6, timeout_s=20)
    assert came[0][1] == "large"


@override_settings(PILLARBOX={"STREAMS": {"bulk": {"rate": "10/s"}}})
def test_what_has_to_wait_costs_no_row_a_write() -> None:
    queue(3)
    before = list(Message.objects.order_by("pk").values())
    lease = Lease(Worker({}), "default")
    lease.insert(slot=None)
    found = ways.ways(["bulk"])
    key = found[0].bucket
    Bucket.objects.create(stream=key[0], mailer=key[1], tokens=-20, filled_at=DatabaseNow())
    batch = claims.claim(lease.id, "default", found, 10)
    assert batch.messages == []
    assert 1.5 < batch.waits[key] <= 2.1
    assert list(Message.objects.order_by("pk").values()) == before


@override_settings(PILLARBOX={"STREAMS": {"bulk": {}, "codes": {}}})
def test_a_batch_is_divided_between_the_streams_that_have_something_due() -> None:
    queue(50)
    queue(2, stream="default")
    lease = Lease(Worker({}), "default")
    lease.insert(slot=None)
    batch = claims.claim(lease.id, "default", ways.ways(["bulk", "default", "codes"]), 20)
    assert Counter(row.stream for row in batch.messages) == {"bulk": 18, "default": 2}


@bulk(rate="20/s")
def test_of_several_drains_one_waits_for_tokens_and_the_others_leave(came: Came) -> None:
    queue(1, to=100)
    queue(2)
    with draining(3) as ended:
        came.sink.wait_for(1)
        wait_for(lambda: len(ended) == 2, timeout_s=3)
        (waiter,) = Drain.objects.all()
        assert waiter.waits
        assert waiter.idle
        came.sink.wait_for(3, timeout_s=20)
    assert not Drain.objects.exists()


@bulk(rate="20/s")
def test_the_drain_that_waits_serves_the_other_streams(came: Came) -> None:
    queue(1, to=200)
    queue(1)
    with draining():
        came.sink.wait_for(1)
        wait_for(lambda: Drain.objects.filter(waits=True).exists())
        for n in range(3):
            queued = time.monotonic()
            send_email(f"other {n}", "body", ["ada@example.org"])
            came.sink.wait_for(2 + n)
            assert came[-1][1] == f"other {n}"
            assert came[-1][0] - queued < 1
        assert Message.objects.filter(state=State.QUEUED).count() == 1


@bulk(rate="20/s")
def test_the_drain_that_waits_sleeps(came: Came) -> None:
    queue(1, to=200)
    queue(1000)
    with draining():
        came.sink.wait_for(1)
        wait_for(lambda: Drain.objects.filter(waits=True).exists())
        started, used = time.monotonic(), time.process_time()
        time.sleep(1.5)
        elapsed, used = time.monotonic() - started, time.process_time() - used
    assert used / elapsed < 0.3


def test_a_dead_drain_that_waited_is_replaced() -> None:
    dead = Lease(Job({}), "default")
    dead.insert(slot=1)
    assert dead.wait_for_tokens()
    heir = Lease(Job({}), "default")
    heir.insert(slot=2)
    assert not heir.wait_for_tokens()
    Drain.objects.filter(pk=dead.id).update(lease_until=DatabaseNow())
    assert heir.wait_for_tokens()
    heir.close()
    assert Lease(Job({}), "default").take()
    assert not Drain.objects.filter(waits=True).exists()


def test_a_drain_that_waits_is_told_to_stay_by_one_that_leaves() -> None:
    waiter, other = Lease(Job({}), "default"), Lease(Job({}), "default")
    waiter.insert(slot=None)
    other.insert(slot=1)
    assert waiter.wait_for_tokens()
    before = Drain.objects.get(pk=waiter.id).stay_until
    assert not other.wait_for_tokens()
    assert Drain.objects.get(pk=waiter.id).stay_until > before


@bulk(rate="10/h")
def test_a_token_that_is_far_away_is_left_to_the_sweep(came: Came) -> None:
    queue(2)
    with draining() as ended:
        came.sink.wait_for(1)
        wait_for(lambda: ended, timeout_s=5)
    assert Message.objects.filter(state=State.QUEUED).count() == 1


@pytest.mark.parametrize("supports_delay", [False, True], ids=["at once", "later"])
@bulk(rate="20/s")
def test_at_its_deadline_the_drain_that_waits_frees_the_place_and_wakes_a_successor(
    came: Came, monkeypatch: pytest.MonkeyPatch, *, supports_delay: bool
) -> None:
    woken: list[timedelta | None] = []
    monkeypatch.setattr("pillarbox.delivery.wakes.wake", woken.append)
    monkeypatch.setattr(Job, "supports_delay", supports_delay)
    monkeypatch.setattr(Job, "drain_s", 1.0)
    queue(1, to=100)
    queue(1)
    with draining() as ended:
        wait_for(lambda: ended, timeout_s=5)
    assert len(came) == 1
    (delay,) = woken
    if supports_delay:
        assert delay is not None
        assert timedelta(seconds=2) < delay < timedelta(seconds=4)
    else:
        assert delay is None
    assert not Drain.objects.exists()
    monkeypatch.setattr(Job, "drain_s", 8.0)
    with draining():
        came.sink.wait_for(2, timeout_s=20)


SLOW = Say("250 2.0.0 Queued", over_s=3.0)


def test_a_stream_that_is_slow_in_every_conversation_leaves_the_others_a_connection() -> None:
    with (
        ScriptedServer({Step.DOT: SLOW}) as server,
        delivering_to(server),
        override_settings(PILLARBOX={"STREAMS": {"bulk": {}}, "CONNECTIONS": 4}),
    ):
        queue(30)
        with draining():
            wait_for(lambda: len(server.envelopes) == 3)
            time.sleep(0.2)
            assert len(server.envelopes) == 3
            queued = time.monotonic()
            send_email("urgent", "body", ["ada@example.org"])
            wait_for(lambda: len(server.envelopes) == 4)
            assert time.monotonic() - queued < 1


def test_a_stream_that_is_alone_has_every_connection() -> None:
    with (
        ScriptedServer({Step.DOT: SLOW}) as server,
        delivering_to(server),
        override_settings(PILLARBOX={"CONNECTIONS": 4}),
    ):
        queue(30, stream="default")
        with draining():
            wait_for(lambda: len(server.envelopes) == 4, timeout_s=2.5)
