"""The page with the content: to whom it is shown, and how safely."""

from __future__ import annotations

import re
from html import unescape

import pytest
from django.core.mail import EmailMultiAlternatives
from django.test import Client

from pillarbox.console.preview import Part
from pillarbox.models import State
from pillarbox.outbox import Options, enqueue
from tests.unit.console.staff import LIST, content_page, login, login_as_root, page, queue, text

pytestmark = pytest.mark.django_db


def test_the_content_needs_a_permission_of_its_own(viewer: Client, reader: Client) -> None:
    message = queue()

    assert viewer.get(content_page(message)).status_code == 403
    assert "/content/" not in viewer.get(page(message)).content.decode()
    assert "It is on its way." in text(reader.get(content_page(message)))
    assert "/content/" in reader.get(page(message)).content.decode()
    assert login("view_content").get(content_page(message)).status_code == 403


def test_nothing_of_a_sensitive_message_is_shown_to_anybody() -> None:
    message = queue(
        subject="Code 123456",
        body="Your code is 123456.",
        html="<b>123456</b>",
        attachments=[("123456.txt", "123456", "text/plain")],
        metadata={"code": "123456"},
        sensitive=True,
    )
    client = login_as_root()

    assert client.get(content_page(message)).status_code == 403
    for address in (LIST, page(message), f"{LIST}{message.pk}/history/"):
        assert "123456" not in client.get(address).content.decode()
    assert "/content/" not in client.get(page(message)).content.decode()


def test_an_erased_content_is_not_found(reader: Client) -> None:
    message = queue(state=State.SENT, content="")

    assert reader.get(content_page(message)).status_code == 404
    assert "/content/" not in reader.get(page(message)).content.decode()


def test_html_is_shown_in_a_frame_that_runs_and_loads_nothing(reader: Client) -> None:
    html = '"><script>alert(1)</script><img src="https://track.example/pixel.gif">'
    message = queue(html=html)

    source = reader.get(content_page(message)).content.decode()

    (frame,) = re.findall(r"<iframe [^>]*>", source)
    assert re.search(r'\bsandbox(=""|\s)', frame)
    (srcdoc,) = re.findall(r'srcdoc="([^"]*)"', frame)
    document = unescape(srcdoc)
    assert document.index("default-src 'none'") < document.index("<script>")
    outside = source.replace(frame, "")
    assert "<script>alert" not in outside
    assert '<img src="https://track' not in outside
    assert "frame-src 'none'" in outside


@pytest.mark.parametrize(
    "element",
    [
        '<link rel="preconnect" href="//track.example">',
        "<LINK\nrel=preconnect href=//track.example>",
        "<meta http-equiv=refresh content='0;url=//track.example'>",
        "<iframe srcdoc='&lt;link rel=preconnect href=//track.example>'>",
        "<iframe/srcdoc=x>",
        "<object data=//track.example>",
    ],
)
def test_an_element_that_would_connect_is_made_an_unknown_one(element: str) -> None:
    part = Part("text/html", f"<p>Hello</p>{element}<p>linked</p>")

    assert element not in part.document
    assert part.document.endswith(f"<p>Hello</p><x-{element[1:]}<p>linked</p>")
    assert part.text.count(element) == 1


def test_the_content_shows_headers_and_the_names_of_attachments(reader: Client) -> None:
    email = EmailMultiAlternatives("Hello", "Text", "me@x.org", ["a@x.org"], cc=["c@x.org"])
    email.attach("terms.pdf", b"%PDF-", "application/pdf")
    email.attach_alternative("BEGIN:VCALENDAR", "text/calendar")
    email.extra_headers["X-Order"] = "<4711>"

    shown = text(reader.get(content_page(enqueue(email, Options()))))

    for word in ("me@x.org", "c@x.org", "X-Order <4711>", "BEGIN:VCALENDAR", "terms.pdf"):
        assert word in shown


def test_a_content_that_cannot_be_read_says_why(reader: Client) -> None:
    message = queue(content="{")

    assert "cannot be read" in text(reader.get(content_page(message)))
