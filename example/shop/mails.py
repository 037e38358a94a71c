"""Every mail that the shop sends of its own. The password reset is Django's and queues as well.

Each of these is called inside a transaction, and the mail exists if and only if that commits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from django.core.mail import EmailMultiAlternatives
from django.template.loader import render_to_string
from django.urls import reverse

from pillarbox import send_email, send_emails
from pillarbox.models import Message
from shop import invoices, tokens
from shop.models import Customer, Notice, Order


def confirm_address(customer: Customer, link: str) -> Message:
    """Ask whether the address belongs to who signed up. The link is erased once it is sent."""
    text, html = render("confirm", customer=customer, link=link)
    return send_email(
        "Please confirm your address", text, [customer.email], html=html, sensitive=True
    )


def order_confirmation(order: Order, link: str) -> Message:
    """Thank for an order: text, HTML and the invoice, made now and kept as it is now."""
    pdf = invoices.render(order)
    order.invoice_sha256 = hashlib.sha256(pdf).hexdigest()
    order.save(update_fields=["invoice_sha256"])
    text, html = render("order", order=order, link=link)
    return send_email(
        f"Your order {order.number}",
        text,
        [order.customer.email],
        html=html,
        attachments=[(f"{order.number}.pdf", pdf, "application/pdf")],
        priority="high",
        idempotency_key=f"order-{order.pk}",
        metadata={"order": order.number},
    )


def weekly_notice(notice: Notice, site: str) -> int:
    """Queue the notice for every customer who wants it; return how many there are.

    A generator: with a million customers it takes no more memory than with ten.
    """
    customers = Customer.objects.filter(is_active=True, wants_notice=True).order_by("pk")
    letters = _letters(notice, customers.iterator(chunk_size=500), site)
    return send_emails(letters, stream="bulk", priority="low", tags=["weekly"])


def _letters(
    notice: Notice, customers: Iterable[Customer], site: str
) -> Iterator[EmailMultiAlternatives]:
    for customer in customers:
        link = unsubscribe_link(customer, site)
        text, html = render("notice", notice=notice, customer=customer, link=link)
        letter = EmailMultiAlternatives(
            notice.subject, text, to=[customer.email], headers={"List-Unsubscribe": f"<{link}>"}
        )
        letter.attach_alternative(html, "text/html")
        yield letter


def unsubscribe_link(customer: Customer, site: str) -> str:
    """Return the link that ends the notices; it never changes."""
    return site + reverse("unsubscribe", args=[tokens.unsubscribe.sign(customer.pk)])


def render(name: str, **context: object) -> tuple[str, str]:
    """Return the text and the HTML of ``mail/NAME``."""
    return (
        render_to_string(f"mail/{name}.txt", context),
        render_to_string(f"mail/{name}.html", context),
    )
