"""How an order comes about: the one transaction that this example is about."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from django.db import transaction
from django.db.models import F

from shop import mails, payments
from shop.models import Customer, Line, Order, Product

logger = logging.getLogger("shop.orders")

MOST = 9
"""How many of one product fit into a basket."""


class OutOfStock(Exception):
    """Somebody else bought the last one."""


@dataclass(frozen=True)
class Item:
    """A product in the basket, and how many of it."""

    product: Product
    quantity: int

    @property
    def amount(self) -> Decimal:
        """The price of them all."""
        return self.quantity * self.product.price


def read_basket(query: Mapping[str, str]) -> list[Item]:
    """Return the basket that the address names (``?ink=2&wax=1``); what makes no sense is left."""
    items = []
    for product in Product.objects.all():
        wanted = query.get(product.slug, "")
        if wanted.isdecimal() and 1 <= int(wanted) <= MOST:
            items.append(Item(product, int(wanted)))
    return items


def place(customer: Customer, basket: list[Item], card: str, link: Callable[[Order], str]) -> Order:
    """Order what is in the basket and pay for it; ``link`` gives the address of the order's page.

    Raise OutOfStock or Declined; then there is no order, the stock is as before, and no mail
    leaves, although it was queued before the card was charged.
    """
    mail = None
    try:
        with transaction.atomic():
            order = _take(customer, basket)
            mail = mails.order_confirmation(order, link(order))
            payments.charge(card, order.total)
    except payments.Declined:
        if mail is not None:
            logger.warning("Declined: %s is rolled back, mail %s too", order, mail.message_id)
        raise
    return order


def _take(customer: Customer, basket: list[Item]) -> Order:
    order = Order.objects.create(customer=customer)
    for item in basket:
        enough = Product.objects.filter(pk=item.product.pk, stock__gte=item.quantity)
        if not enough.update(stock=F("stock") - item.quantity):
            raise OutOfStock(f"There are no longer {item.quantity} of “{item.product}”.")
        Line.objects.create(
            order=order, product=item.product, quantity=item.quantity, price=item.product.price
        )
    return order
