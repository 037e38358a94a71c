"""The slots that bound how many drains are at work, on every database."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from pillarbox import jobs, signals
from pillarbox.delivery import claims, looks, taking, wakes
from pillarbox.delivery.claims import LEASE
from pillarbox.delivery.drain import drain
from pillarbox.delivery.leases import Lease
from pillarbox.delivery.ways import Way
from pillarbox.engines import get_engine
from pillarbox.models import Circuit, DatabaseNow, Drain, Message, Pause, State
from tests.support.vendors import only_on_postgresql
from tests.support.wakes import lose_wakes, queue, wait_for_state

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(30)]

on_postgresql = only_on_postgresql("others have no such statement")


@pytest.fixture
def _all_taken(settings: Settings) -> None:
    """Let two drains hold both of the slots that there are."""
    settings.PILLARBOX = {"ENGINE": "django_q2", "MAX_DRAINS": 2}
    for slot in (1, 2):
        Lease(get_engine(), "default").insert(slot=slot)


@pytest.mark.usefixtures("_all_taken")
def test_a_drain_that_finds_every_slot_taken_hands_its_wake_over() -> None:
    before = Drain.objects.order_by("slot").values_list("stay_until", flat=True)[0]
    assert not Lease(get_engine(), "default").take()
    assert Drain.objects.count() == 2
    assert Drain.objects.filter(stay_until__gt=before).count() >= 1


@pytest.mark.usefixtures("_all_taken")
def test_a_drain_takes_the_slot_of_one_that_died(monkeypatch: pytest.MonkeyPatch) -> None:
    lose_wakes(monkeypatch)
    message = queue()
    Drain.objects.update(lease_until=DatabaseNow(timedelta(seconds=-1)))
    jobs.deliver_due()
    wait_for_state(message, State.SENT)
    assert not Drain.objects.exists()


def test_each_drain_takes_the_first_free_slot_and_none_beyond_the_last(settings: Settings) -> None:
    settings.PILLARBOX = {"ENGINE": "django_q2", "MAX_DRAINS": 3}
    leases = [Lease(get_engine(), "default") for _ in range(4)]
    assert all(lease.take() for lease in leases[:3])
    Drain.objects.filter(slot=2).delete()
    assert leases[3].take()
    taken = Drain.objects.order_by("slot").values_list("slot", "pk")
    assert dict(taken) == {1: leases[0].id, 2: leases[3].id, 3: leases[2].id}
    row = Drain.objects.get(slot=2)
    assert (row.engine, row.pid, row.idle, row.closing) == ("django_q2", os.getpid(), False, False)
    assert row.lease_until - row.started_at == LEASE


def test_no_slot_is_taken_beside_an_idle_drain(settings: Settings) -> None:
    settings.PILLARBOX = {"ENGINE": "django_q2", "MAX_DRAINS": 3}
    first = Lease(get_engine(), "default")
    assert first.take()
    first.mark_idle()
    assert not Lease(get_engine(), "default").take()
    assert Drain.objects.count() == 1


def test_on_postgresql_a_drain_starts_by_one_statement(settings: Settings) -> None:
    settings.PILLARBOX = {"ENGINE": "django_q2"}
    queue()
    lease = Lease(get_engine(), "default")
    with CaptureQueriesContext(connection) as queries:
        assert lease.take()
    if connection.vendor == "postgresql":
        assert len(queries) == 1
        assert lease.taken is not None
        assert lease.taken.survey == looks.survey("default")
        assert lease.taken.survey.streams == ["default"]
        assert lease.taken.at == Drain.objects.get().started_at
        assert lease.taken.messages == []
    else:
        assert lease.taken is None


@on_postgresql
def test_the_first_mails_are_claimed_with_the_row(settings: Settings) -> None:
    settings.PILLARBOX = {"ENGINE": "django_q2"}
    later = queue(send_at=timedelta(hours=1))
    late = queue(expires_at=timedelta(microseconds=1))
    low, high, normal = (queue(priority=each) for each in ("low", "high", "normal"))
    lease = Lease(get_engine(), "default")
    with CaptureQueriesContext(connection) as queries:
        assert lease.take(Way("default", ("smtp",), limit=3))  # the late one takes a place
    assert len(queries) == 1
    assert lease.taken is not None
    claimed = lease.taken.messages
    assert [message.pk for message in claimed] == [high.pk, normal.pk]
    assert claimed == [*Message.objects.filter(drain=lease.id, state="sending").order_by("pk")]
    waiting = Message.objects.filter(state="queued", drain=None)
    assert set(waiting) == {later, late, low}


@on_postgresql
@pytest.mark.parametrize("is_listened_to", [False, True])
def test_a_claim_reads_all_columns_where_somebody_listens(
    is_listened_to: bool, settings: Settings
) -> None:
    settings.PILLARBOX = {"ENGINE": "django_q2"}
    queue(priority="low", tags=["a"], metadata={"b": 1}, sensitive=True)
    queue(send_at=timedelta(0), expires_at=timedelta(hours=1), in_doubt="hold")

    def listener(**_: Any) -> None:
        """Hear of it."""

    if is_listened_to:
        signals.message_sent.connect(listener)
    try:
        lease, way = Lease(get_engine(), "default"), Way("default", ("smtp",), limit=1)
        assert lease.take(way)
        assert lease.taken is not None
        claimed = [*lease.taken.messages, *claims.claim(lease.id, "default", [way], 1).messages]
    finally:
        signals.message_sent.disconnect(listener)
    whole = {row.pk: {**_columns(row), "mailer": "smtp"} for row in Message.objects.all()}
    assert len(claimed) == 2
    for message in claimed:
        columns = _columns(message)
        assert (columns == whole[message.pk]) is is_listened_to
        assert columns.items() <= whole[message.pk].items()
        asked = {name: getattr(message, name) for name in whole[message.pk]}
        assert asked == whole[message.pk]


def _columns(message: Message) -> dict[str, Any]:
    return {name: value for name, value in vars(message).items() if name != "_state"}


def _pause_default() -> None:
    Pause.objects.create(stream="default")


def _name_a_mailer() -> None:
    queue()
    Message.objects.filter(pk=queue().pk).update(using="backup")


def _open_a_circuit() -> None:
    Circuit.objects.create(mailer="smtp", state=Circuit.State.OPEN)


def _queue_a_later_stream() -> None:
    queue(stream="receipts")


def _queue_an_earlier_stream() -> None:
    queue(stream="alerts")


@on_postgresql
@pytest.mark.parametrize(
    "make_doubtful",
    [
        _pause_default,
        _name_a_mailer,
        _open_a_circuit,
        _queue_a_later_stream,
        _queue_an_earlier_stream,
    ],
)
def test_nothing_is_claimed_with_the_row_where_that_may_be_a_mistake(
    make_doubtful: Callable[[], Any], settings: Settings
) -> None:
    settings.PILLARBOX = {"ENGINE": "django_q2", "STREAMS": {"alerts": {}, "receipts": {}}}
    queue()
    make_doubtful()
    lease = Lease(get_engine(), "default")
    assert lease.take(Way("default", ("smtp",), limit=8))
    assert lease.taken is not None
    assert lease.taken.messages == []
    assert not Message.objects.exclude(state="queued").exists()


@on_postgresql
def test_a_mail_claimed_with_a_row_unheard_is_sent_by_the_same_drain(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.PILLARBOX = {"ENGINE": "django_q2"}
    message = queue()
    take = taking.take_free_slot

    def take_unheard(*arguments: Any) -> None:
        monkeypatch.setattr(taking, "take_free_slot", take)
        taken = take(*arguments)
        assert taken is not None
        assert taken.messages == [message]
        raise OperationalError("The answer is lost.")

    monkeypatch.setattr(taking, "take_free_slot", take_unheard)
    monkeypatch.setattr(connection, "close_at", None)  # kept from before: it may be a stale one
    assert drain() == {"sent": 1}


@pytest.mark.parametrize(
    ("send_at", "asked"), [(None, 0), (timedelta(hours=1), 0), (timedelta(seconds=20), 1)]
)
def test_a_drain_asks_for_a_wake_for_what_is_due_soon_and_looks_only_where_some_mail_waits(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, send_at: timedelta | None, asked: int
) -> None:
    settings.PILLARBOX = {"ENGINE": "django_q2"}
    queue()
    if send_at is not None:
        queue(send_at=send_at)
    looked: list[Any] = []
    delays: list[Any] = []
    next_due = wakes.next_due

    def look(*arguments: Any) -> timedelta | None:
        looked.append(arguments)
        return next_due(*arguments)

    monkeypatch.setattr(wakes, "next_due", look)
    monkeypatch.setattr(wakes, "wake_later", delays.append)
    engine = get_engine()
    monkeypatch.setattr(type(engine), "supports_delay", True)
    assert drain(engine=engine) == {"sent": 1}
    assert len(looked) == (send_at is not None)
    assert len(delays) == asked


@on_postgresql
def test_a_drain_that_gets_no_row_claims_nothing(settings: Settings) -> None:
    settings.PILLARBOX = {"ENGINE": "django_q2", "MAX_DRAINS": 1}
    queue()
    assert Lease(get_engine(), "default").take()
    assert not Lease(get_engine(), "default").take(Way("default", ("smtp",), limit=8))
    assert Message.objects.get().state == "queued"


@on_postgresql
def test_only_the_row_of_a_drain_is_not_flushed(settings: Settings) -> None:
    settings.PILLARBOX = {"ENGINE": "django_q2"}
    Lease(get_engine(), "default").take()
    with connection.cursor() as cursor, transaction.atomic():
        cursor.execute("SHOW synchronous_commit")
        assert cursor.fetchone() == ("on",)
