"""The worked schedule and its bounds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.delivery import retry

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
DAYS_2 = timedelta(days=2)


def next_due(attempts: int = 1, **changes: Any) -> datetime | None:
    """Ask for the next attempt of a message that has been due since noon."""
    given = {
        "asked": None,
        "retry_since": NOON,
        "retry_for": DAYS_2,
        "expires_at": None,
        "jitter": 0.0,
    }
    return retry.next_due(NOON, attempts, **{**given, **changes})


@pytest.mark.parametrize(
    ("attempts", "wait"),
    [
        (1, timedelta(seconds=30)),
        (2, timedelta(minutes=2)),
        (3, timedelta(minutes=10)),
        (4, timedelta(minutes=30)),
        (5, timedelta(hours=1)),
        (6, timedelta(hours=2)),
        (7, timedelta(hours=2)),
        (500, timedelta(hours=2)),
    ],
)
def test_the_schedule_is_the_documented_one(attempts: int, wait: timedelta) -> None:
    assert retry.delay(attempts, jitter=0) == wait
    assert next_due(attempts) == NOON + wait


def test_jitter_is_a_tenth_either_way() -> None:
    assert retry.delay(2, jitter=-1) == timedelta(seconds=108)
    assert retry.delay(2, jitter=1) == timedelta(seconds=132)


def test_two_days_hold_twenty_eight_retries() -> None:
    now, attempts = NOON, 1
    while True:
        due_at = retry.next_due(
            now,
            attempts,
            asked=None,
            retry_since=NOON,
            retry_for=DAYS_2,
            expires_at=None,
            jitter=0,
        )
        if due_at is None:
            break
        now, attempts = due_at, attempts + 1
    assert attempts - 1 == 28


def test_a_retry_after_retry_for_is_none() -> None:
    assert next_due(retry_for=timedelta(seconds=30)) == NOON + timedelta(seconds=30)
    assert next_due(retry_for=timedelta(seconds=29)) is None


def test_retry_for_counts_from_retry_since() -> None:
    since = NOON - DAYS_2 + timedelta(seconds=40)
    assert next_due(1, retry_since=since) is not None
    assert next_due(2, retry_since=since) is None


def test_a_retry_at_the_moment_of_expiry_is_none() -> None:
    half_a_minute = NOON + timedelta(seconds=30)
    assert next_due(expires_at=half_a_minute) is None
    assert next_due(expires_at=half_a_minute + timedelta(microseconds=1)) == half_a_minute


def test_the_servers_wish_takes_the_schedules_place() -> None:
    assert next_due(1, asked=timedelta(minutes=5)) == NOON + timedelta(minutes=5)
    assert next_due(9, asked=timedelta(minutes=5)) == NOON + timedelta(minutes=5)


def test_a_server_that_asks_for_nothing_is_not_asked_without_end() -> None:
    assert next_due(1, asked=timedelta()) == NOON + timedelta(seconds=30)


def test_a_wish_beyond_the_bounds_is_none() -> None:
    assert next_due(1, asked=timedelta(days=3)) is None
    assert next_due(1, asked=timedelta(hours=1), expires_at=NOON + timedelta(minutes=30)) is None


@given(
    attempts=st.integers(1, 100),
    asked=st.none() | st.timedeltas(timedelta(), timedelta(days=365)),
    jitter=st.floats(-1, 1),
)
def test_a_retry_is_never_sooner_than_asked_and_never_after_the_bound(
    attempts: int, asked: timedelta | None, jitter: float
) -> None:
    due_at = next_due(attempts, asked=asked, jitter=jitter)
    if due_at is None:
        return
    assert NOON + timedelta(seconds=27) <= due_at <= NOON + DAYS_2
    if asked is not None:
        assert due_at >= NOON + asked
