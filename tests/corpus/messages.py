"""The corpus: messages made by hand, each something that a mail queue is known to lose."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from email.charset import QP, Charset
from email.headerregistry import Address
from typing import Any

from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.utils.functional import lazystr
from django.utils.safestring import mark_safe

from tests.corpus import attached
from tests.corpus.builders import CORPUS, Builder, alternatives, case, legacy, modern, plain

__all__ = ["CORPUS", "Builder", "attached"]

ICALENDAR = "BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nSUMMARY:Tea\r\nEND:VCALENDAR\r\n"


@case
def text() -> EmailMessage:
    return plain()


@case
def html_only() -> EmailMessage:
    email = plain(body="<p>Thank you.</p>")
    email.content_subtype = "html"
    return email


@case
def html_only_by_its_class() -> EmailMessage:
    class HtmlMessage(EmailMessage):
        content_subtype = "html"

    return HtmlMessage("Order 42", "<p>Thank you.</p>", to=["customer@example.com"])


@case
def text_and_html() -> EmailMessage:
    return alternatives(("<p>Merci, élève Zoë 🎉</p>", "text/html"), body="Merci, élève Zoë 🎉")


@case
def html_alternative_without_text() -> EmailMessage:
    return alternatives(("<p>Thank you.</p>", "text/html"), body="")


@case
def four_alternatives() -> EmailMessage:
    return alternatives(
        ("<p>Tea?</p>", "text/html"),
        ("<html amp4email><p>Tea?</p></html>", "text/x-amp-html"),
        (ICALENDAR, "text/calendar"),
        (b"\x00\xffbytes", "application/octet-stream"),
    )


@legacy
def calendar_with_a_method() -> EmailMessage:
    return alternatives((ICALENDAR, "text/calendar; method=REQUEST"))


@case
def many_headers() -> EmailMessage:
    return plain(
        headers={
            "X-Last": "z",
            "List-Unsubscribe": "<https://example.org/u>, <mailto:u@example.org>",
            "X-Number": "5",
            "X-Long": "word " * 60,
            "X-Umlaut": "Grüße aus Köln",
            "References": "<1@example.org> <2@example.org>",
        }
    )


@legacy
def headers_that_are_no_text() -> EmailMessage:
    return plain(
        headers={
            "X-Number": 5,
            "X-Decimal": Decimal("1.50"),
            "X-Lazy": lazystr("lazy"),
            "X-When": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            "X-None": None,
        }
    )


@modern
def headers_that_are_no_text_to_the_modern_api() -> EmailMessage:
    return plain(
        headers={
            "X-Lazy": lazystr("lazy"),
            "Resent-Date": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            "To": [Address("Jürgen", "j", "example.org"), Address("", "k", "example.org")],
            "Sender": Address("Büro", "office", "example.org"),
        }
    )


@modern
def addresses_that_are_no_text() -> EmailMessage:
    return plain(
        from_email=Address("Büro", "office", "example.org"),
        to=[Address("Jürgen", "j", "example.org"), lazystr("k@example.org")],
    )


@case
def headers_in_place_of_the_fields() -> EmailMessage:
    return plain(
        headers={
            "From": "Shown <shown@example.org>",
            "To": "Everybody <all@example.org>",
            "Cc": "c@example.org",
            "Reply-To": "r@example.org",
        },
        reply_to=["ignored@example.org"],
    )


@case
def headers_of_its_own_for_the_pins() -> EmailMessage:
    return plain(
        headers={"message-ID": "<own@example.org>", "DATE": "Fri, 02 Jan 2026 03:04:05 +0100"}
    )


@case
def every_field() -> EmailMessage:
    return plain(
        from_email="Shop <shop@example.org>",
        to=["a@example.org", "B <b@example.org>", ""],
        cc=["c@example.org"],
        bcc=["hidden@example.org", "Hidden <hidden2@example.org>"],
        reply_to=["help@example.org", "Help <help2@example.org>"],
    )


@case
def only_bcc() -> EmailMessage:
    return plain(to=[], bcc=["hidden@example.org"])


@case
def names_and_domains_that_are_not_ascii() -> EmailMessage:
    return plain(
        subject="Überraschung für Zoë 🎉 " * 6,
        from_email="Größe <shop@bücher.example>",
        to=['"Zoë, Dr." <zoe@example.org>', "李 <li@例え.example>"],
        reply_to=["Jürgen <j@bücher.example>"],
    )


@case
def legacy_charset() -> EmailMessage:
    email = alternatives(("<p>Jürgen</p>", "text/html"), subject="Größe", body="Jürgen")
    email.encoding = "iso-8859-1"
    email.attach("ü.txt", "Jürgen", "text/plain")
    return email


@legacy
def charset_object() -> EmailMessage:
    charset = Charset("utf-8")
    charset.body_encoding = QP
    email = plain(body="Jürgen = groß\n")
    email.encoding = charset
    return email


@case
def nul_and_control_characters() -> EmailMessage:
    return plain(body="nul \x00, escape \x1b, form feed \x0c, next line \x85.\n")


@case
def line_ends_of_every_kind() -> EmailMessage:
    return plain(body="unix\nwindows\r\nmac\rdots\n.\n..\nFrom here\n\n\n")


@case
def very_long_lines() -> EmailMessage:
    return alternatives(("<p>" + "é" * 3000 + "</p>", "text/html"), body="x" * 3000)


@case
def lazy_and_safe_text() -> EmailMessage:
    email: Any = alternatives(
        (mark_safe("<p>safe</p>"), "text/html"), body=mark_safe("Safe & sound")
    )
    email.subject = lazystr("Lazy")
    email.to = [lazystr("lazy@example.org")]
    email.body = lazystr("lazy body")
    return email


@case
def template_syntax() -> EmailMessage:
    return alternatives(
        ("{% load x %}{{ user }}", "text/html"), subject="{{ 7|add:7 }}", body="{% now 'Y' %}"
    )


@case
def dollar_signs() -> EmailMessage:
    return plain(subject="$tuple", headers={"X-Dollar": "$dict"}, body='{"$bytes": "AAAA"}')


@case
def empty() -> EmailMessage:
    return EmailMessage(to=["a@example.org"])


class Signed(EmailMultiAlternatives):
    """Builds on Django's rendering."""

    def message(self, **options: Any) -> Any:
        message = super().message(**options)
        message["X-Signature"] = "abc"
        return message


@case
def class_with_a_message_of_its_own() -> EmailMessage:
    email = Signed("Größe", "Jürgen", to=["a@example.org"], bcc=["b@example.org"])
    email.attach_alternative("<p>Jürgen</p>", "text/html")
    email.attach("a.bin", b"\x00\xff", "application/octet-stream")
    return email


class Mailing(EmailMessage):
    """Has an envelope of its own."""

    def recipients(self) -> list[str]:
        return ["list-1@example.org", "list-2@example.org"]


@case
def class_with_recipients_of_its_own() -> EmailMessage:
    return Mailing("To all", "Hello", to=["undisclosed@example.org"])


class Templated(EmailMessage):
    """Computes what Django reads."""

    def __init__(self, name: str, **options: Any) -> None:
        self.name = name
        super().__init__(**options)

    @property
    def subject(self) -> str:
        return f"Hello {self.name}"

    @subject.setter
    def subject(self, value: str) -> None:
        pass


@case
def class_with_a_computed_subject() -> EmailMessage:
    return Templated("Zoë", body="x", to=["a@example.org"])


@case
def anymail_attributes_on_a_plain_message() -> EmailMessage:
    email: Any = plain()
    email.tags = ["receipt"]
    email.metadata = {"order": 42}
    return email
