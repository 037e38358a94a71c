"""The scenes of the demo: what a visitor does, through HTTP, and what has to arrive for it.

Every scene returns the mails that are meant, made here anew from the shop's templates and data, so
that what arrived can be held against them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import partial

from django.template.loader import render_to_string
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode

from shop import mails, payments, tokens
from shop.models import Customer, Notice, Order, Product
from stage.browser import Browser
from stage.mail import Mail, body
from stage.postbox import Postbox
from stage.processes import DemoFailed
from stage.theatre import ADMIN, Theatre

ADA = "ada.lovelace@example.org"
FIRST_PASSWORD, SECOND_PASSWORD = "analytical-engine-1843", "note-g-of-the-notes"
NOTICE_SUBJECT = "Fresh ink, and a harbour in grey — your weekly notice"
NOTICE_BODY = """The iron-gall ink is back: “Förde”, a blue that darkens to the grey of a harbour.

With our new stencil letters you write {{ anything }} and {% everything %}, <angles> & all, \
and 100 % of it arrives as you wrote it, however long the line may be.

.A dot at the start of a line is no trouble either."""


@dataclass
class Result:
    """What a scene has led to."""

    name: str
    meant: list[Mail] = field(default_factory=list)
    rolled_back: list[str] = field(default_factory=list)
    """Message-IDs that existed in a transaction that did not commit."""


@dataclass
class Play:
    """Plays the scenes in the shop; the notice goes to as many customers as there are readers."""

    theatre: Theatre
    postbox: Postbox
    readers: int

    def sign_up(self) -> Result:
        """Sign up, and follow the link in the mail that arrives."""
        self.theatre.screen.scene("Sign up and confirm the address")
        visitor = self._visit("/sign-up/")
        visitor.submit(first_name="Ada", last_name="Lovelace", email=ADA, password=FIRST_PASSWORD)
        visitor.expect("Look into your mail")
        self.theatre.screen.page("POST /sign-up/", visitor.took_s)
        link = self._link_in("Please confirm your address")
        visitor.open(link)
        visitor.submit()
        visitor.expect("your address is confirmed")
        self.theatre.screen.done("followed the link in the mail: the address is confirmed")
        return Result("Confirmation link", [_meant_confirmation(link)])

    def order(self) -> Result:
        """Log in, order and pay."""
        self.theatre.screen.scene("Log in and order, with an invoice made at that moment")
        visitor = self._log_in(ADA, FIRST_PASSWORD)
        _check_out(visitor, payments.ACCEPTED, pen="1", ink="2", notebook="3")
        visitor.expect("Thank you!")
        self.theatre.screen.page("POST /checkout/", visitor.took_s)
        order = Order.objects.get(customer__email=ADA)
        self._wait_for(f"Your order {order.number}")
        return Result("Order with a PDF", [_meant_order(order, visitor.url)])

    def notice(self) -> Result:
        """Write the weekly notice; it goes on arriving when this returns."""
        self.theatre.screen.scene(f"The weekly notice to {self.readers} customers")
        clerk = self._log_in(ADMIN, self.theatre.password, then="/notice/")
        clerk.submit(subject=NOTICE_SUBJECT, body=NOTICE_BODY)
        clerk.expect(f"Queued for {self.readers} customers.")
        self.theatre.screen.page("POST /notice/", clerk.took_s)
        notice = Notice.objects.get()
        readers = Customer.objects.filter(wants_notice=True, is_active=True)
        meant = [_meant_notice(notice, reader, self.theatre.site) for reader in readers]
        if len(meant) != self.readers:
            raise DemoFailed(f"{len(meant)} customers want the notice, not {self.readers}.")
        return Result(f"Notice to {self.readers}", meant)

    def reset(self) -> Result:
        """Forget the password, and set a new one by Django's own pages and mail."""
        self.theatre.screen.scene("Meanwhile: Django's own password reset")
        visitor = self._visit("/account/password_reset/")
        visitor.submit(email=ADA)
        visitor.expect("Look into your mail")
        self.theatre.screen.page("POST /account/password_reset/", visitor.took_s)
        link = self._link_in("A new password for Fern & Quill")
        visitor.open(link)
        visitor.submit(new_password1=SECOND_PASSWORD, new_password2=SECOND_PASSWORD)
        visitor.expect("Your new password is set")
        self._log_in(ADA, SECOND_PASSWORD)
        self.theatre.screen.done("followed the link and logged in with the new password")
        return Result("Password reset", [_meant_reset(link, self.theatre.site)])

    def declined(self) -> Result:
        """Order with a card that is declined after the confirmation was queued."""
        self.theatre.screen.scene("An order whose payment is declined")
        before = _stock_and_orders()
        visitor = self._log_in(ADA, SECOND_PASSWORD)
        _check_out(visitor, payments.DECLINED, letters="2", wax="1")
        visitor.expect("Nothing was ordered, and no mail was sent.")
        self.theatre.screen.page("POST /checkout/", visitor.took_s)
        if _stock_and_orders() != before:
            raise DemoFailed("The declined order has left something behind.")
        pattern = r"Declined: (\S+) is rolled back, mail (\S+) too"
        rolled_back = re.findall(pattern, self.theatre.log("shop").read_text())
        if len(rolled_back) != 1:
            raise DemoFailed("The shop did not queue a confirmation before it charged the card.")
        number, message_id = rolled_back[0]
        self.theatre.screen.done(f"rolled back: {number} and the mail {message_id}")
        return Result("Declined order", rolled_back=[message_id])

    def _wait_for(self, subject: str) -> Mail:
        arrived = partial(self.postbox.find, subject, ADA)
        return self.theatre.wait(arrived, f"“{subject}” to {ADA}", within_s=30).mail

    def _link_in(self, subject: str) -> str:
        mail = self._wait_for(subject)
        link = re.search(r"http://\S+", mail.text)
        if link is None:
            raise DemoFailed(f"There is no link in {mail}.")
        return link[0]

    def _visit(self, path: str) -> Browser:
        visitor = Browser(self.theatre.site)
        visitor.open(path)
        return visitor

    def _log_in(self, address: str, password: str, then: str = "/") -> Browser:
        visitor = self._visit(f"/account/login/?next={then}")
        visitor.submit(username=address, password=password)
        visitor.expect("Log out")
        return visitor


def _check_out(visitor: Browser, card: str, **basket: str) -> None:
    visitor.open("/")
    visitor.submit(**basket)
    visitor.submit(card=card)


def _stock_and_orders() -> tuple[int, list[int]]:
    return Order.objects.count(), list(Product.objects.values_list("stock", flat=True))


# ------------------------------------------------------------------------------ what was meant


def _meant_confirmation(link: str) -> Mail:
    customer = Customer.objects.get(email=ADA)
    if tokens.confirm.unsign(link.rstrip("/").rpartition("/")[2]) != str(customer.pk):
        raise DemoFailed("The link in the confirmation is another customer's.")
    text, html = mails.render("confirm", customer=customer, link=link)
    return Mail((ADA,), "Please confirm your address", body(text), body(html))


def _meant_order(order: Order, link: str) -> Mail:
    text, html = mails.render("order", order=order, link=link)
    invoice = (f"{order.number}.pdf", "application/pdf", order.invoice_sha256)
    return Mail((ADA,), f"Your order {order.number}", body(text), body(html), (invoice,))


def _meant_notice(notice: Notice, customer: Customer, site: str) -> Mail:
    link = mails.unsubscribe_link(customer, site)
    text, html = mails.render("notice", notice=notice, customer=customer, link=link)
    return Mail((customer.email,), NOTICE_SUBJECT, body(text), body(html), unsubscribe=f"<{link}>")


def _meant_reset(link: str, site: str) -> Mail:
    customer = Customer.objects.get(email=ADA)
    context = {
        "user": customer,
        "email": ADA,
        "protocol": "http",
        "domain": site.removeprefix("http://"),
        "uid": urlsafe_base64_encode(force_bytes(customer.pk)),
        "token": link.rstrip("/").rpartition("/")[2],
    }
    text = render_to_string("registration/password_reset_email.html", context)
    return Mail((ADA,), "A new password for Fern & Quill", body(text))
