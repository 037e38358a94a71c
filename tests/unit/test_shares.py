"""Parcels of several streams take turns."""

from __future__ import annotations

from pillarbox.delivery.senders.base import Parcel
from pillarbox.delivery.senders.shares import Shares
from pillarbox.models import Message


def parcel(stream: str) -> Parcel:
    return Parcel(message=Message(stream=stream), mailer="smtp")


def filled(*streams: str) -> Shares:
    shares = Shares()
    for stream in streams:
        shares.put(parcel(stream))
    return shares


def drained(shares: Shares, but: tuple[str, ...] = ()) -> list[str]:
    found = []
    while (taken := shares.take(but)) is not None:
        found.append(taken.message.stream)
    return found


def test_streams_take_turns() -> None:
    shares = filled("bulk", "bulk", "bulk", "codes", "codes")
    assert len(shares) == len(list(shares)) == 5
    assert drained(shares) == ["bulk", "codes", "bulk", "codes", "bulk"]
    assert not shares


def test_what_comes_late_waits_for_one_of_each_other_stream_at_most() -> None:
    shares = filled(*["bulk"] * 100, *["news"] * 100)
    shares.take()
    shares.put(parcel("codes"))
    assert drained(shares)[:3] == ["news", "bulk", "codes"]


def test_within_a_stream_the_order_is_kept() -> None:
    shares, mine = Shares(), [parcel("bulk") for _ in range(5)]
    for one in mine:
        shares.put(one)
    assert [shares.take() for _ in mine] == mine


def test_a_stream_that_has_all_it_may_have_is_passed_over_and_stays() -> None:
    shares = filled("bulk", "bulk", "codes")
    assert drained(shares, but=("bulk",)) == ["codes"]
    assert shares.next_stream(but=("bulk",)) is None
    assert drained(shares) == ["bulk", "bulk"]


def test_cleared_it_is_empty() -> None:
    shares = filled("bulk", "codes")
    shares.clear()
    assert not shares
    assert shares.take() is None
