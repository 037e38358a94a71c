"""The composer: shapes that it knows, line ends, transfer encodings, and what it leaves."""

from __future__ import annotations

from email import policy
from email.header import decode_header, make_header
from email.message import EmailMessage as Parsed
from email.mime.image import MIMEImage
from email.parser import BytesParser
from typing import Any

import pytest
from django.core.mail import EmailMultiAlternatives
from django.test import override_settings

from pillarbox.compat import MODERN_MESSAGES
from pillarbox.mime import bodies, compose
from tests.corpus.builders import alternatives, plain
from tests.corpus.messages import CORPUS
from tests.support.delivered import carried

PINS = {"Date": "Tue, 24 Nov 2026 04:30:00 +0000", "Message-ID": "<pinned@example.org>"}


def message(body: str = "Thank you.\n", **options: Any) -> EmailMultiAlternatives:
    headers = {**PINS, **options.pop("headers", {})}
    return EmailMultiAlternatives(
        options.pop("subject", "Order 42"),
        body,
        options.pop("from_email", "Shop <shop@example.org>"),
        options.pop("to", ["customer@example.com"]),
        headers=headers,
        **options,
    )


def composed(email: EmailMultiAlternatives, *, eight_bit: bool = True) -> Parsed:
    data = compose(email, eight_bit=eight_bit)
    assert data is not None
    parsed = BytesParser(policy=policy.default).parsebytes(data)
    assert isinstance(parsed, Parsed)
    return parsed


SHAPES = {
    "text": lambda: plain(),
    "html only": lambda: html_only(),
    "text and html": lambda: alternatives(("<p>Zoë</p>", "text/html")),
    "html without text": lambda: alternatives(("<p>Zoë</p>", "text/html"), body=""),
    "a calendar": lambda: alternatives(("BEGIN:VCALENDAR\r\n", "text/calendar")),
    "a PDF": lambda: plain(attachments=[("Rechnung für Zoë.pdf", b"%PDF", "application/pdf")]),
    "a text file": lambda: plain(attachments=[("käse.csv", "a;ü\r\n", "text/csv")]),
    "html and a PDF": lambda: html_and_pdf(),
    "every name foreign": lambda: plain(
        subject="Grüße aus Köln",
        from_email="Büro <b@bücher.example>",
        to=["Zoë <z@example.org>", '"Müller, Jürgen" <j@example.org>', "k@例え.jp"],
    ),
    "headers": lambda: plain(
        headers={"List-Unsubscribe": "<https://example.org/u>", "X-Long": "word " * 60 + "end"}
    ),
    "long lines": lambda: plain(body="ü" * 3000),
}


def html_only() -> Any:
    email = plain(body="<p>Thank you.</p>")
    email.content_subtype = "html"
    return email


def html_and_pdf() -> Any:
    email = alternatives(("<p>Zoë</p>", "text/html"))
    email.attach("order.pdf", b"%PDF", "application/pdf")
    return email


@pytest.mark.parametrize("make", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("eight_bit", [True, False], ids=["8bit", "7bit"])
def test_a_shape_that_real_mail_has_is_composed(make: Any, eight_bit: bool) -> None:
    assert compose(carried(make()), eight_bit=eight_bit) is not None


def test_an_inline_image_of_the_callers_own_making_is_composed() -> None:
    if MODERN_MESSAGES:
        from email.message import MIMEPart

        image = MIMEPart()
        image.set_content(b"\x89PNG", "image", "png", disposition="inline", cid="<logo>")
    else:
        image = MIMEImage(b"\x89PNG", "png")  # type: ignore[assignment]
        image.add_header("Content-ID", "<logo>")
        image.add_header("Content-Disposition", "inline")

    (_, part) = composed(carried(message(attachments=[image]))).iter_parts()

    assert part["Content-ID"] == "<logo>"
    assert part.get_content_disposition() == "inline"
    assert part.get_payload(decode=True) == b"\x89PNG"


@pytest.mark.parametrize(
    ("body", "eight_bit", "encoding"),
    [
        ("plain", False, "7bit"),
        ("ü", True, "8bit"),
        ("mostly plain, one ü", False, "quoted-printable"),
        ("例え" * 20, False, "base64"),
        ("x" * 998, True, "7bit"),
        ("x" * 999, True, "quoted-printable"),
        ("ok\n" * 400 + "x" * 999 + "\nok", True, "quoted-printable"),
        ("x" * 997 + "\n" + "y" * 998, True, "7bit"),
        ("ü" * 500, True, "quoted-printable"),
    ],
)
def test_the_transfer_encoding_is_the_plainest_that_the_lines_allow(
    body: str, eight_bit: bool, encoding: str
) -> None:
    parsed = composed(message(body), eight_bit=eight_bit)

    assert parsed["Content-Transfer-Encoding"] in {encoding, "base64"}
    assert parsed.get_content().replace("\r\n", "\n").rstrip("\n") == body


@pytest.mark.parametrize("body", ["Zoë " * 500, "例え" * 500])
def test_the_encoded_body_of_an_identical_text_is_reused(body: str) -> None:
    """A mailing has the same text a thousand times: it is encoded once."""
    once, again = (bodies.text(f"{body}.", eight_bit=False, ends_line=True) for _ in range(2))

    assert once is not None
    assert once is again


@pytest.mark.parametrize("body", ["a\nb", "a\rb", "a\r\nb", "a\n\r\nb", "\n.\n", "\r\n.\r\n"])
def test_every_line_end_becomes_crlf(body: str) -> None:
    data = compose(message(body), eight_bit=True)

    assert data is not None
    assert b"\r" not in data.replace(b"\r\n", b"")
    assert b"\n" not in data.replace(b"\r\n", b"")


LEFT = {
    "NUL": message("a\x00b"),
    "a lone surrogate": message("\ud800"),
    "an encoded word": message(subject="=?utf-8?q?caf=C3=A9?="),
    "two lines": message(subject="two\nlines"),
    "a local part in Cyrillic": message(from_email="почта@example.org"),
    "two addresses in one": message(to=["a@example.org, b@example.org"]),
    "Sender": message(headers={"Sender": "s@example.org"}),
    "To repeated": message(headers={"To": "everybody@example.org"}),
    "a header in a value": message(headers={"X-A": "a\r\nBcc: evil@example.org"}),
    "a Date in other digits": message(headers={"Date": "Fri, ٠٢ Jan 2026 03:04:05 +0000"}),
    "a word longer than a line": message(subject=f"ü {'x' * 1000}"),
    "blanks longer than a line": message(subject=f"a{' ' * 2000}b"),
    "no room for an encoded word": message(headers={"X" * 61: "例え"}),
    "a header in a name": message(headers={"X\r\nBcc": "evil@example.org"}),
    "a quote in a filename": message(attachments=[('a"b.txt', "text", "text/plain")]),
    "a type with parameters": message(attachments=[("a.txt", "x", "text/plain; charset=koi8-r")]),
    "a mail in a mail": message(attachments=[("a.eml", b"Subject: x", "message/rfc822")]),
}


@pytest.mark.parametrize("email", LEFT.values(), ids=LEFT)
def test_what_django_must_judge_is_left_to_it(email: EmailMultiAlternatives) -> None:
    assert compose(email, eight_bit=True) is None


def test_a_class_or_charset_of_the_projects_own_is_left_to_django() -> None:
    class Own(EmailMultiAlternatives):
        pass

    own = Own("s", "b", to=["a@example.org"], headers=PINS)
    assert compose(own, eight_bit=True) is None
    foreign = message()
    foreign.encoding = "iso-8859-1"
    assert compose(foreign, eight_bit=True) is None
    with override_settings(DEFAULT_CHARSET="iso-8859-1"):
        assert compose(message(), eight_bit=True) is None


def test_most_of_the_corpus_is_composed() -> None:
    left = {name for name, make in CORPUS.items() if not compose(carried(make()), eight_bit=True)}

    assert len(left) < len(CORPUS) / 2, left


LONG = {
    "a word behind an encoded one": message(subject=f"ü {'x' * 900}"),
    "encoded words and blanks": message(subject=f"üa{' ' * 70}b"),
    "an address behind an encoded word": message(to=[f"Zoë <{'x' * 60}@example.org>"]),
    "addresses with encoded words": message(to=["Zoë <z@example.org>"] * 9, cc=["é <e@b.c>"] * 4),
    "a long name of a header": message(headers={"X" * 50: "例え🎉" * 9}),
}


@pytest.mark.parametrize("email", LONG.values(), ids=LONG)
def test_no_line_of_a_header_is_too_long(email: EmailMultiAlternatives) -> None:
    """RFC 5322 section 2.1.1; RFC 2047 section 2, and 5: an encoded word has some text."""
    data = compose(email, eight_bit=True)

    assert data is not None
    for line in data.partition(b"\r\n\r\n")[0].split(b"\r\n"):
        assert len(line) <= (76 if b"=?" in line else 998)
        assert b"??=" not in line
    fields = BytesParser(policy=policy.default).parsebytes(data)
    assert fields["Subject"] == email.subject
    assert [str(each) for each in fields["To"].addresses] == email.to


def test_a_header_of_a_part_is_never_folded_into_a_blank_line() -> None:
    image = MIMEImage(b"\x89PNG", "png")
    image["X-Note"] = "a; ; "
    email = message()
    email.attachments.append(image)

    data = compose(email, eight_bit=True)

    assert data is not None
    assert b"X-Note: a;\r\n ; \r\n" in data


def _characters() -> list[str]:
    """Return all that may stand in a subject, but for most of the rare ones, 32 at a time."""
    codes = [*range(0x20, 0x10000), *range(0x1F300, 0x1F700), *range(0x10FF00, 0x10FFFE)]
    printable = [chr(code) for code in codes if chr(code).isprintable() or code == 0xA0]
    return ["".join(printable[n : n + 32]) for n in range(0, len(printable), 32)]


def test_every_character_of_a_subject_and_of_a_header_arrives_as_it_is() -> None:
    for characters in _characters():
        text = f"x{characters}x"
        data = compose(message(subject=text, headers={"X-Note": text}), eight_bit=False)
        assert data is not None
        fields = BytesParser(policy=policy.compat32).parsebytes(data)
        for name in ("Subject", "X-Note"):
            unfolded = str(fields[name]).replace("\r\n", "")
            assert str(make_header(decode_header(unfolded))) == text
