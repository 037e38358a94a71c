"""Stands in for a payment provider, with the two test cards that those usually have."""

from __future__ import annotations

from decimal import Decimal

ACCEPTED = "4242 4242 4242 4242"
DECLINED = "4000 0000 0000 0002"


class Declined(Exception):
    """The card's bank says no."""


def charge(card: str, amount: Decimal) -> None:
    """Take ``amount`` from ``card``, or raise Declined."""
    if card == DECLINED:
        raise Declined(f"The card ending in {card[-4:]} was declined for {amount} euros.")
