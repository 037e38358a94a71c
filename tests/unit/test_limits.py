"""The arithmetic of rates: what a bucket holds, when a message goes, and what that bounds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.conf import Rate
from pillarbox.delivery.limits import Purse, capacity, refill, wait_s

START = datetime(2026, 1, 1, tzinfo=UTC)

rates = st.builds(
    Rate,
    st.integers(1, 5000),
    st.sampled_from([timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)]),
)


def full(text: str) -> Purse:
    rate = Rate.parse(text)
    return Purse(rate=rate, tokens=capacity(rate), at=START)


def later(purse: Purse, seconds: float) -> Purse:
    """Return the bucket as a claim finds it so much later."""
    return Purse(purse.rate, refill(purse.tokens, seconds, purse.rate), purse.at)


@pytest.mark.parametrize(
    ("text", "per_s"),
    [("14/s", 14), ("500/min", 500 / 60), ("1000/h", 1000 / 3600), ("86400/d", 1)],
)
def test_a_rate_is_read_and_written_alike(text: str, per_s: float) -> None:
    assert Rate.parse(text).per_s == pytest.approx(per_s)
    assert str(Rate.parse(text)) == text


@pytest.mark.parametrize(
    "wrong",
    ["", "14", "14/", "/s", "0/s", "-1/s", "1.5/s", "14/sec", "14 / s", "14/s\n", "٣/s", 14, None],
)
def test_anything_else_is_no_rate(wrong: object) -> None:
    with pytest.raises(ValueError, match="is no rate"):
        Rate.parse(wrong)


def test_a_full_bucket_is_one_seconds_worth() -> None:
    purse = full("14/s")
    assert purse.room == 14
    assert [purse.pay(1) for _ in range(15)] == [True] * 14 + [False]
    assert purse.wait_s() == pytest.approx(1 / 14)
    assert not later(purse, 1 / 15).pay(1)
    assert later(purse, 1 / 14).pay(1)


def test_a_bucket_never_holds_more_however_long_it_stood() -> None:
    assert later(full("14/s"), 3600).room == 14


def test_a_message_larger_than_the_bucket_goes_when_it_is_full_and_leaves_a_debt() -> None:
    purse = full("14/s")
    assert purse.pay(100)
    assert purse.tokens == -86
    assert purse.room == 0
    assert purse.wait_s() == pytest.approx(87 / 14)
    assert purse.wait_s(100) == pytest.approx(100 / 14)

    almost = full("14/s")
    assert almost.pay(1)
    assert not almost.pay(100)
    assert almost.pay(13)


def test_a_fraction_of_a_recipient_a_second_sends_one_and_waits_for_the_rest() -> None:
    purse = full("10/h")
    assert purse.room == 1
    assert purse.pay(1)
    assert not purse.pay(1)
    assert purse.wait_s() == pytest.approx(360)
    assert not later(purse, 359.9).pay(1)
    assert later(purse, 360).pay(1)
    assert not later(purse, 359.9).room

    large = full("10/h")
    assert large.pay(5)
    assert large.wait_s() == pytest.approx(1800)


def test_a_broken_number_of_tokens_a_second_leaves_its_rest_in_the_bucket() -> None:
    purse = full("500/min")
    assert purse.room == 8
    assert sum(purse.pay(1) for _ in range(9)) == 8
    assert purse.wait_s() == pytest.approx((1 - 1 / 3) * 0.12)


def test_a_clock_that_was_set_back_takes_no_tokens_away() -> None:
    assert refill(5, -60, Rate.parse("14/s")) == 5


def test_a_rate_that_was_lowered_empties_what_is_above_it() -> None:
    assert refill(100, 0, Rate.parse("10/s")) == 10


@given(rate=rates, tokens=st.floats(-1000, 1000), recipients=st.integers(1, 1000))
def test_what_waits_as_long_as_it_is_told_may_go(
    rate: Rate, tokens: float, recipients: int
) -> None:
    held = refill(tokens, 0, rate)
    pause = wait_s(held, recipients, rate)
    assert wait_s(refill(held, pause, rate), recipients, rate) == 0.0


@given(
    rate=rates,
    steps=st.lists(
        st.tuples(st.floats(0, 30), st.lists(st.integers(1, 50), max_size=5)), max_size=60
    ),
    window_s=st.floats(0.1, 120),
)
def test_no_span_of_time_sees_more_than_its_rate_one_bucket_and_one_message(
    rate: Rate, steps: list[tuple[float, list[int]]], window_s: float
) -> None:
    purse, clock = Purse(rate, capacity(rate), START), 0.0
    sent: list[tuple[float, int]] = []
    for pause, messages in steps:
        purse, clock = later(purse, pause), clock + pause
        sent += [(clock, size) for size in messages if purse.pay(size)]
    for start, _ in sent:
        within = [size for at, size in sent if start <= at <= start + window_s]
        excess = max(0.0, max(within) - capacity(rate))
        bound = rate.per_s * window_s + capacity(rate) + excess
        assert sum(within) <= bound + 1e-3


@given(rate=rates, sizes=st.lists(st.integers(1, 50), min_size=5, max_size=40))
def test_a_queue_that_never_empties_flows_at_its_rate(rate: Rate, sizes: list[int]) -> None:
    purse, clock = Purse(rate, capacity(rate), START), 0.0
    for size in sizes:
        pause = purse.wait_s(size)
        purse, clock = later(purse, pause), clock + pause
        assert purse.pay(size)
    # The first bucket is full already, and the last message's debt is still to be paid.
    least = (sum(sizes[:-1]) - capacity(rate)) / rate.per_s
    assert least - 1e-3 <= clock <= sum(sizes) / rate.per_s + 1e-3
