"""A process that is stopped within a transaction stops none of the others, where rows are locked.

SQLite has one lock for everybody: there these tests show that the same work is done at all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.core.mail import EmailMessage
from django.db import OperationalError, connection, transaction

from pillarbox import send_emails
from pillarbox.delivery import claims, parcels, recovery, ways
from pillarbox.delivery.leases import Lease
from pillarbox.delivery.ledger import Ledger
from pillarbox.delivery.outcomes import Reply, Sent, Stage
from pillarbox.delivery.senders.base import Parcel, Result
from pillarbox.engines import get_engine
from pillarbox.engines.worker import Engine as Worker
from pillarbox.models import DatabaseNow, Drain, Message, State
from tests.support.transactions import in_thread
from tests.support.unheard import before_commits

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(60)]

SOON_S = 10
MAILS = 300
"""So many that MariaDB's optimizer has a choice of indexes, and takes others than the key."""


class Drained:
    """A drain with ten messages of its own."""

    def __init__(self) -> None:
        self.lease = Lease(Worker({}), "default")
        self.lease.insert(slot=None)
        self.ledger = Ledger(self.lease.id, "default")
        batch = claims.claim(self.lease.id, "default", ways.ways(["default"]), 10)
        self.parcels = [parcels.address(message) for message in batch.messages]

    def begin(self) -> list[Parcel]:
        return self.ledger.commit(self.parcels[:4], []).begun

    def record(self) -> int:
        sent = Sent(reply=Reply(250, "2.0.0", "queued"), stage=Stage.DOT)
        self.begin()
        return len(self.ledger.commit([], [Result(one, sent) for one in self.parcels[:4]]).settled)

    def claim(self) -> int:
        return len(claims.claim(self.lease.id, "default", ways.ways(["default"]), 400).messages)

    def give_back(self) -> bool:
        messages = [parcel.message for parcel in self.parcels[:4]]
        return claims.give_back(self.lease.id, "default", messages) == 0

    def recover(self) -> bool:
        self.begin()
        lapse(self.lease)
        return len(recovery.recover("default")) == 4


def lapse(lease: Lease) -> None:
    Drain.objects.filter(pk=lease.id).update(lease_until=DatabaseNow(timedelta(seconds=-1)))


@pytest.fixture
def drains() -> tuple[Drained, Drained]:
    send_emails(EmailMessage("s", "b", to=["ada@example.org"]) for _ in range(MAILS))
    return Drained(), Drained()


@contextmanager
def locked_by_another(work: Callable[[], Any]) -> Iterator[None]:
    """Have another's transaction open, with what it has locked."""
    if connection.vendor == "sqlite":
        yield
        return
    ready, over = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            work()
            ready.set()
            over.wait(SOON_S * 3)

    thread = in_thread(hold)
    try:
        assert ready.wait(SOON_S)
        yield
    finally:
        over.set()
        thread.join()


def soon(work: Callable[[], Any]) -> Any:
    """Return what the work returns, on a connection of its own, within some seconds."""
    found: list[Any] = []
    thread = in_thread(lambda: found.append(work()))
    thread.join(SOON_S)
    assert not thread.is_alive(), "it waits for a process that does not go on"
    return found[0]


@pytest.mark.parametrize("verb", ["claim", "begin", "record", "give_back", "recover"])
def test_a_transaction_locks_no_message_of_another_drain(
    drains: tuple[Drained, Drained], verb: str
) -> None:
    one, other = drains
    theirs = [parcel.message.pk for parcel in other.parcels]
    locked: list[int] = []

    def look() -> None:
        if connection.vendor != "sqlite":
            in_thread(lambda: locked.extend(pk for pk in theirs if not is_free(pk))).join()

    with before_commits(look):
        assert getattr(one, verb)()
    assert locked == []


def is_free(pk: int) -> bool:
    """Whether the row, and its entries in the indexes, can be changed at once."""
    with connection.cursor() as cursor:
        name = {"mysql": "innodb_lock_wait_timeout = 1", "postgresql": "lock_timeout = 1000"}
        cursor.execute(f"SET {name[connection.vendor]}")
    try:
        with transaction.atomic():
            Message.objects.filter(pk=pk).update(state=State.IN_DOUBT)
            transaction.set_rollback(True)
    except OperationalError:
        return False
    return True


def test_one_stopped_with_its_own_row_locked_is_recovered_from(
    drains: tuple[Drained, Drained],
) -> None:
    stopped, other = drains
    stopped.begin()
    lapse(stopped.lease)
    lapse(other.lease)
    mine = Drain.objects.filter(pk=stopped.lease.id)
    with locked_by_another(lambda: mine.update(idle=True)):
        assert len(soon(lambda: recovery.recover("default"))) == 4
        assert not Message.objects.filter(state=State.SENDING).exists()
        assert not Drain.objects.filter(pk=other.lease.id).exists()


@pytest.mark.parametrize("is_dead", [True, False])
def test_one_stopped_with_its_own_row_locked_does_not_hold_up_a_starting_drain(
    *, is_dead: bool
) -> None:
    stopped = Lease(get_engine(), "default")
    stopped.insert(slot=1)
    mine = Drain.objects.filter(pk=stopped.id)
    if is_dead:
        lapse(stopped)
    with locked_by_another(lambda: mine.update(idle=not is_dead)):
        assert soon(lambda: Lease(get_engine(), "default").take())
