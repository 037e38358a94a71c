"""Messages that Django refuses when it sends them, and that are therefore refused at the call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.core import mail
from django.core.mail import EmailMessage

from pillarbox.compat import MODERN_MESSAGES
from tests.corpus.builders import alternatives, plain

REFUSED: dict[str, Callable[[], EmailMessage]] = {
    "newline_in_the_subject": lambda: plain(subject="a\nBcc: victim@example.org"),
    "newline_in_the_sender": lambda: plain(from_email="a\n <a@example.org>"),
    "newline_in_a_recipient": lambda: plain(to=["a@example.org\nb@example.org"]),
    "newline_in_a_hidden_recipient": lambda: plain(bcc=["a\nb@example.org"]),
    "newline_in_reply_to": lambda: plain(reply_to=["a@example.org\r\nX: y"]),
    "newline_in_a_header": lambda: plain(headers={"X-Ref": "1\r\nBcc: victim@example.org"}),
    "two_addresses_in_one": lambda: plain(to=["a@example.org, b@example.org"]),
    "recipient_without_a_name": lambda: plain(to=["@example.org"]),
    "label_of_64_characters": lambda: plain(to=[f"a@{'x' * 64}.ö.example"]),
    "lone_surrogate_in_the_body": lambda: plain(body="caf\udce9"),
    "lone_surrogate_in_an_alternative": lambda: alternatives(("caf\udce9", "text/html")),
    "unknown_charset": lambda: with_attributes(plain(body="é"), encoding="no-such-charset"),
    "character_that_the_charset_lacks": lambda: with_attributes(plain(body="Ж"), encoding="ascii"),
    "attachment_of_no_type": lambda: with_attributes(
        plain(), attachments=[("a.bin", b"x", "binary")]
    ),
    "attachment_of_two_values": lambda: with_attributes(plain(), attachments=[("a.bin", b"x")]),
    "attachment_of_four_values": lambda: with_attributes(
        plain(), attachments=[("a.bin", b"x", "application/x-a", "x")]
    ),
    "recipients_of_two_types": lambda: with_attributes(plain(), to=("a@example.org",)),
}
if MODERN_MESSAGES:  # before, Django writes an encoded word into the envelope
    REFUSED["local_part_in_cyrillic"] = lambda: plain(to=["почта@example.org"])
if hasattr(mail, "mailers"):  # before, Django shows the header to everybody
    REFUSED["bcc_as_a_header"] = lambda: plain(headers={"BCC": "hidden@example.org"})


def with_attributes(email: EmailMessage, **attributes: Any) -> EmailMessage:
    """Set attributes behind the constructor's back."""
    for name, value in attributes.items():
        setattr(email, name, value)
    return email
