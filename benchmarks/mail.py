"""The mail that is queued and sent: text and HTML, 2.7 KB on the wire, another for each number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from django.core.mail import EmailMultiAlternatives

SENDER = "shop@example.org"
_LINES = [
    "Thank you for your order number {number}. We have packed it with care,",
    "and it leaves our house today. It comes to you within two working days.",
    "You can follow it at https://shop.example.org/orders/{number}/parcel",
    "and reach us at any time by a reply to this mail. We are glad to help.",
]
_TEXT = "Dear reader,\n\n" + "\n\n".join("\n".join(_LINES[n:]) for n in (0, 1, 1)) + "\n"
_HTML = (
    "<!DOCTYPE html>\n<html>\n<head><title>Order {number}</title></head>\n"
    '<body style="font-family: sans-serif; color: #222222">\n<p>Dear reader,</p>\n'
    + "".join(f'<p style="margin: 0 0 1em 0">{line}</p>\n' for line in _LINES * 3)
    + "</body>\n</html>\n"
)


@dataclass(frozen=True)
class Mail:
    """One mail; its recipient tells it apart at the other end."""

    subject: str
    text: str
    html: str
    recipient: str

    def email(self) -> EmailMultiAlternatives:
        """Return it as Django's message."""
        from django.core.mail import EmailMultiAlternatives

        message = EmailMultiAlternatives(self.subject, self.text, SENDER, [self.recipient])
        message.attach_alternative(self.html, "text/html")
        return message

    def pinned_email(self) -> EmailMultiAlternatives:
        """Return it with its Date and Message-ID, as a queued mail has them."""
        from email.utils import formatdate

        message, name = self.email(), self.recipient.partition("@")[0]
        moment = 1_795_494_600 + int(name.rpartition("-")[2])
        message.extra_headers["Date"] = formatdate(moment)
        message.extra_headers["Message-ID"] = f"<{name}.{moment}.4711@example.org>"
        return message

    def send_mail_arguments(self) -> tuple[str, str, str, list[str]]:
        """Return what a task is given that calls `deliver`."""
        return self.subject, self.text, self.html, [self.recipient]


def mails(count: int, *, first: int = 0) -> Iterator[Mail]:
    """Return so many different ones."""
    for number in range(first, first + count):
        yield Mail(
            f"Your order {number} is on its way",
            _TEXT.format(number=number),
            _HTML.format(number=number),
            f"reader-{number}@example.org",
        )


def deliver(subject: str, text: str, html: str, recipients: list[str]) -> None:
    """Send it now: the body of the tasks of all that have no queue of their own for mail."""
    from django.core.mail import send_mail

    send_mail(subject, text, SENDER, recipients, html_message=html)
