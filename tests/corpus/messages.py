"""Messages made by hand, each of them something that a mail queue is known to lose."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from email import encoders, message_from_bytes
from email.charset import QP, Charset
from email.header import Header
from email.headerregistry import Address
from email.message import MIMEPart
from email.mime.base import MIMEBase
from email.mime.image import MIMEImage
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from typing import Any

from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.utils.functional import lazystr
from django.utils.safestring import mark_safe

from pillarbox.compat import MODERN_MESSAGES

Builder = Callable[[], EmailMessage]
CORPUS: dict[str, Builder] = {}

PNG = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00\x1f\x15"
    b"\xc4\x89\x00\x00\x00\rIDATx\x9cc\xf8\xff\xff?\x00\x05\xfe\x02\xfe\xa75\x81\x84\x00\x00\x00\x00"
    b"IEND\xaeB`\x82"
)
ICALENDAR = "BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nSUMMARY:Tea\r\nEND:VCALENDAR\r\n"
RFC822 = b"From: a@example.org\r\nTo: b@example.org\r\nSubject: inner\r\n\r\nThe inner one.\r\n"


def case(build: Builder) -> Builder:
    """Add a message to the corpus under its function's name."""
    CORPUS[build.__name__] = build
    return build


def legacy(build: Builder) -> Builder:
    """Add one that Django up to 5.2 sends."""
    return build if MODERN_MESSAGES else case(build)


def modern(build: Builder) -> Builder:
    """Add one that Django from 6.0 sends."""
    return case(build) if MODERN_MESSAGES else build


def plain(**options: Any) -> EmailMessage:
    """Return a message with what is not given filled in."""
    defaults = {"subject": "Order 42", "body": "Thank you.\n", "to": ["customer@example.com"]}
    return EmailMessage(**{**defaults, **options})


def alternatives(*parts: tuple[Any, str], **options: Any) -> EmailMultiAlternatives:
    """Return a message with alternatives."""
    defaults = {"subject": "Order 42", "body": "Thank you.\n", "to": ["customer@example.com"]}
    return EmailMultiAlternatives(**{**defaults, **options}, alternatives=list(parts))


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
def attachments_of_the_same_name() -> EmailMessage:
    email = plain()
    email.attach("invoice.pdf", b"%PDF-1", "application/pdf")
    email.attach("invoice.pdf", b"%PDF-2", "application/pdf")
    email.attach("invoice.pdf", b"%PDF-1", "application/pdf")
    return email


@case
def attachments_of_guessed_types() -> EmailMessage:
    email = plain()
    email.attach("page.html", "<p>é</p>")
    email.attach("data.csv", b"a;b\r\nc;d\r\n")
    email.attach("picture.png", PNG)
    email.attach("unknown.zzz", b"\x00\x01\x02")
    email.attach(None, b"nameless", "application/x-nameless")
    return email


@case
def text_attachment_that_is_not_utf8() -> EmailMessage:
    email = plain()
    email.attach("latin.txt", "Jürgen".encode("latin-1"), "text/plain")
    return email


@case
def attachments_without_a_body() -> EmailMessage:
    email = plain(body="")
    email.attach("report.csv", "a,b\n", "text/csv")
    return email


@case
def attachment_with_a_name_in_many_scripts() -> EmailMessage:
    email = plain()
    email.attach('Übersicht "№ 1"; 概要.pdf', b"%PDF", "application/pdf")
    email.attach("x" * 200 + ".pdf", b"%PDF", "application/pdf")
    return email


@case
def bytearray_attachment() -> EmailMessage:
    email: Any = plain()
    email.attach("a.bin", bytearray(range(256)), "application/octet-stream")
    return email


@modern
def memoryview_attachment() -> EmailMessage:
    email: Any = plain()
    email.attach("a.bin", memoryview(bytes(range(256))), "application/octet-stream")
    return email


@legacy
def inline_image_as_mimebase() -> EmailMessage:
    email: Any = alternatives(('<img src="cid:logo@inline">', "text/html"))
    email.mixed_subtype = "related"
    image = MIMEImage(PNG)
    image.add_header("Content-ID", "<logo@inline>")
    image.add_header("Content-Disposition", "inline", filename="Ö.png")
    email.attach(image)
    return email


@legacy
def multipart_as_mimebase() -> EmailMessage:
    email = plain()
    bundle = MIMEMultipart("report", report_type="delivery-status")
    bundle.preamble = "A report."
    bundle.attach(MIMEText("Jürgen", "plain", "utf-8"))
    bundle.attach(MIMEText("latin: ü", "plain", "iso-8859-1"))
    binary: Any = MIMEBase("application", "x-thing", name="thing")
    binary.set_payload(b"\x00\x01\xfe\xff" * 60)
    encoders.encode_base64(binary)
    binary["X-Comment"] = Header("Grüße aus Köln " * 8, "utf-8")
    bundle.attach(binary)
    email.attach(bundle)
    return email


@legacy
def eight_bit_mimebase() -> EmailMessage:
    email = plain()
    part = MIMEBase("text", "plain", charset="utf-8")
    part["Content-Transfer-Encoding"] = "8bit"
    part.set_payload("Jürgen\n".encode())
    email.attach(part)
    return email


@legacy
def alternative_subtype_related() -> EmailMessage:
    email: Any = alternatives(("<p>x</p>", "text/html"))
    email.alternative_subtype = "related"
    return email


@modern
def inline_image_as_mimepart() -> EmailMessage:
    email = alternatives(('<img src="cid:logo@inline">', "text/html"))
    image = MIMEPart()
    image.set_content(
        PNG, "image", "png", disposition="inline", cid="<logo@inline>", filename="Ö.png"
    )
    email.attach(image)
    return email


@modern
def multipart_as_mimepart() -> EmailMessage:
    email = plain()
    bundle = MIMEPart()
    bundle.set_content("Jürgen")
    bundle.add_alternative("<p>Jürgen</p>", subtype="html")
    bundle.add_attachment(b"\x00\xff", "application", "x-thing", filename="thing")
    bundle.preamble = "For old readers."
    bundle["Content-Description"] = "Grüße aus Köln " * 8
    email.attach(bundle)
    return email


@case
def attached_django_message() -> EmailMessage:
    inner = alternatives(("<p>ü</p>", "text/html"), subject="Überraschung", cc=["c@example.org"])
    inner.attach("deep.bin", b"\x00deep", "application/octet-stream")
    email = plain()
    email.attach("inner.eml", inner, "message/rfc822")
    return email


@case
def attached_parsed_message() -> EmailMessage:
    email = plain()
    email.attach("inner.eml", message_from_bytes(RFC822), "message/rfc822")
    return email


@case
def attached_message_as_bytes_and_text() -> EmailMessage:
    email = plain()
    email.attach("bytes.eml", RFC822, "message/rfc822")
    email.attach("text.eml", RFC822.decode(), "message/rfc822")
    return email


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


@legacy
def undecodable_bytes_in_a_mimebase() -> EmailMessage:
    email = plain()
    source = b"Content-Type: text/plain\nX-Raw: caf\xe9\n\ncaf\xe9\n"
    parsed = message_from_bytes(source)
    part = MIMEBase("text", "plain")
    part["X-Raw"] = parsed["X-Raw"]
    part.set_payload(b"caf\xe9\n")
    email.attach(part)
    return email


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
