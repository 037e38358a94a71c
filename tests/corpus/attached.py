"""The corpus: attachments of every kind."""

from __future__ import annotations

from email import encoders, message_from_bytes
from email.header import Header
from email.message import MIMEPart
from email.mime.base import MIMEBase
from email.mime.image import MIMEImage
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from typing import Any

from django.core.mail import EmailMessage

from tests.corpus.builders import alternatives, case, legacy, modern, plain

PNG = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00\x1f\x15"
    b"\xc4\x89\x00\x00\x00\rIDATx\x9cc\xf8\xff\xff?\x00\x05\xfe\x02\xfe\xa75\x81\x84\x00\x00\x00\x00"
    b"IEND\xaeB`\x82"
)
RFC822 = b"From: a@example.org\r\nTo: b@example.org\r\nSubject: inner\r\n\r\nThe inner one.\r\n"


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
