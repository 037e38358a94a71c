"""The slots that bound how many drains are at work, on every database."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pytest_django import Settings

from pillarbox import jobs
from pillarbox.delivery.leases import Lease
from pillarbox.engines import get_engine
from pillarbox.models import DatabaseNow, Drain, State
from tests.support.wakes import lose_wakes, queue, wait_for_state

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(30)]


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
