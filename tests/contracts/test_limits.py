"""Buckets keep their rate on every database, however many workers take from them at once."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest
from django.db import connections, transaction

from pillarbox.conf import Rate
from pillarbox.delivery import claims, database, limits
from pillarbox.delivery.leases import Lease
from pillarbox.engines.worker import Engine as Worker
from pillarbox.models import Bucket, DatabaseNow, database_now

pytestmark = pytest.mark.django_db(transaction=True)

KEY = ("bulk", "smtp")
RATE = Rate.parse("40/s")


@pytest.fixture
def lease() -> Lease:
    """A drain's row with a live lease."""
    return new_lease()


def new_lease() -> Lease:
    made = Lease(Worker({}), "default")
    made.insert(slot=None)
    return made


def take(lease: Lease, sizes: list[int], rate: Rate = RATE) -> int:
    """Take tokens for messages of these sizes as a claim does; return how many recipients go."""

    def work() -> int:
        claims.renew(lease.id, "default")
        purses = limits.take("default", {KEY: rate})
        taken = sum(size for purse in purses.values() for size in sizes if purse.pay(size))
        limits.put_back("default", purses.values())
        return taken

    return database.run("default", work)


def test_a_new_bucket_is_full_and_what_is_left_is_kept(lease: Lease) -> None:
    assert take(lease, [30]) == 30
    (bucket,) = Bucket.objects.all()
    assert (bucket.stream, bucket.mailer) == KEY
    assert bucket.tokens == pytest.approx(10)
    assert take(lease, [40]) == 0


def test_the_databases_clock_fills_it(lease: Lease) -> None:
    Bucket.objects.create(stream=KEY[0], mailer=KEY[1], tokens=-20, filled_at=DatabaseNow())
    ago = DatabaseNow(timedelta(seconds=-1))
    Bucket.objects.update(filled_at=ago)
    purse = limits.look("default", {KEY: RATE})[KEY]
    assert 20 <= purse.tokens < 30
    assert abs(purse.at - database_now("default")) < timedelta(seconds=1)


def test_a_bucket_that_was_filled_in_the_future_neither_gains_nor_loses(lease: Lease) -> None:
    Bucket.objects.create(
        stream=KEY[0], mailer=KEY[1], tokens=5, filled_at=DatabaseNow(timedelta(seconds=60))
    )
    before = Bucket.objects.get().filled_at
    assert take(lease, [1]) == 1
    bucket = Bucket.objects.get()
    assert bucket.tokens == pytest.approx(4)
    assert bucket.filled_at == before


def test_an_empty_bucket_is_not_written(lease: Lease) -> None:
    Bucket.objects.create(stream=KEY[0], mailer=KEY[1], tokens=-20, filled_at=DatabaseNow())
    before = Bucket.objects.values().get()
    assert take(lease, [1]) == 0
    assert Bucket.objects.values().get() == before


def test_names_that_differ_in_case_have_buckets_of_their_own(lease: Lease) -> None:
    wanted = {("bulk", "smtp"): RATE, ("Bulk", "smtp"): RATE, ("bulk", "SMTP"): RATE}
    purses = database.run("default", lambda: _renewed(lease, wanted))
    assert set(purses) == set(wanted)
    assert Bucket.objects.count() == 3


def _renewed(lease: Lease, wanted: dict[limits.Key, Rate]) -> dict[limits.Key, limits.Purse]:
    claims.renew(lease.id, "default")
    return limits.take("default", wanted)


def test_a_claim_that_fails_takes_nothing(lease: Lease) -> None:
    take(lease, [])
    with transaction.atomic():
        purses = _renewed(lease, {KEY: RATE})
        assert purses[KEY].pay(40)
        limits.put_back("default", purses.values())
        transaction.set_rollback(True)
    assert take(lease, [40]) == 40


def test_eight_workers_at_once_stay_within_the_rate() -> None:
    seconds, taken, recipients = 3.0, [0] * 8, 3
    meet = threading.Barrier(8)
    times: list[float] = []

    def work(number: int) -> None:
        mine = new_lease()
        meet.wait()
        started = time.monotonic()
        try:
            while time.monotonic() - started < seconds:
                taken[number] += take(mine, [recipients] * 4)
                time.sleep(0.01)
            times.append(time.monotonic() - started)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(times) == 8
    longest = max(times) + 0.5  # from the first bucket's birth, before they all met
    assert sum(taken) <= RATE.per_s * (longest + 1)
    # One bucket to begin with, and then most of what flowed in: a claim that finds another's
    # hands on the bucket leaves, and comes back.
    assert sum(taken) >= RATE.per_s * seconds
