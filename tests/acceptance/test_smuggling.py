"""SMTP smuggling: whatever stands in a message, no server ever finds a second one in it."""

from __future__ import annotations

import re
import smtplib
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.mail import EmailMessage

from pillarbox import send_email, send_emails, testing
from pillarbox.compat import SMTP_BACKEND
from pillarbox.exceptions import InvalidMessage
from pillarbox.models import Message
from tests.corpus.messages import Signed
from tests.support.mailers import SMTP, delivering_to
from tests.support.wire_server import ENDS, SloppyServer

ADA = ["ada@example.org"]
SECOND = (
    "MAIL FROM:<boss@example.org>{0}RCPT TO:<eve@example.org>{0}DATA{0}"
    "Subject: smuggled{0}{0}Pay at once.{0}.{0}"
)
IDS = [repr(end)[2:-1] for end in ENDS]


@pytest.fixture
def server() -> Iterator[SloppyServer]:
    with SloppyServer("8BITMIME") as sloppy:
        yield sloppy


def smuggling(end: bytes) -> str:
    """Return a text with an end of data in it, and a conversation behind that."""
    found = re.match(r"\r\n|\r|\n", end.decode())
    assert found is not None
    return f"harmless{end.decode()}{SECOND.format(found[0])}"


def assert_one_clean_mail(server: SloppyServer, text: str) -> None:
    server.finish()
    (mail,) = server.mails
    assert server.unknown == []
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", mail.data)
    assert len(mail.commands) == 2  # one MAIL, one RCPT
    # Not by leaving it out: every line of it is there.
    for line in filter(None, re.split(r"\r\n|\r|\n", text)):
        assert line.encode() in mail.data


@pytest.mark.parametrize("end", ENDS, ids=IDS)
def test_the_double_is_sloppy(end: bytes, server: SloppyServer) -> None:
    client = smtplib.SMTP(server.host, server.port, timeout=5)
    client.ehlo()
    client.mail("a@example.org")
    client.rcpt("b@example.org")
    client.docmd("data")
    client.send(smuggling(end).encode() + b"\r\n.\r\n")
    replies = [client.getreply()[0] for _ in range(5)]
    client.close()
    assert replies == [250, 250, 250, 354, 250]
    assert [mail.data[-12:] for mail in server.mails] == [b"harmless", b"Pay at once."]


class Mime:
    """What ``message()`` gives back: octets of the class's own."""

    def __init__(self, octets: bytes) -> None:
        self.octets = octets

    def as_bytes(self, **_: Any) -> bytes:
        return self.octets


class OwnMime(EmailMessage):
    """A class that writes its own MIME, bare CR and LF included."""

    octets = b""

    def message(self, **_: Any) -> Any:
        return Mime(self.octets)


def own_mime(octets: bytes) -> EmailMessage:
    email = OwnMime("s", "b", "shop@example.org", ADA)
    email.octets = octets
    return email


@pytest.mark.django_db
@pytest.mark.parametrize("end", ENDS, ids=IDS)
class TestNoServerSeesTwoMails:
    def test_in_a_text(self, end: bytes, server: SloppyServer) -> None:
        send_email("s", smuggling(end), ADA)
        with delivering_to(server):
            assert testing.deliver() == {"sent": 1}
        assert_one_clean_mail(server, smuggling(end))

    def test_in_every_part_of_a_message(self, end: bytes, server: SloppyServer) -> None:
        text = smuggling(end)
        send_email("s", text, ADA, html=text, attachments=[("a.txt", text, "text/plain")])
        with delivering_to(server):
            assert testing.deliver() == {"sent": 1}
        assert_one_clean_mail(server, text)

    @pytest.mark.parametrize("path", [SMTP, SMTP_BACKEND])
    def test_in_the_octets_of_a_class_that_writes_its_own(
        self, path: str, end: bytes, server: SloppyServer
    ) -> None:
        send_emails([own_mime(b"Subject: s\r\n\r\n" + smuggling(end).encode())])
        with delivering_to(server, path=path):
            assert testing.deliver() == {"sent": 1}
        assert_one_clean_mail(server, smuggling(end))

    def test_in_what_a_backends_own_signature_leaves(
        self, end: bytes, server: SloppyServer
    ) -> None:
        send_email("s", "b", ADA)
        path = f"{__name__}.{Signing.__name__}"
        with delivering_to(server, path=path, trailer=smuggling(end)):
            assert testing.deliver() == {"sent": 1}
        assert_one_clean_mail(server, smuggling(end))


def _signing() -> Any:
    from pillarbox.backends.smtp import EmailBackend

    class Signing(EmailBackend):
        """Hands octets of its own to smtplib, as backends that sign do."""

        def __init__(self, *args: Any, trailer: str, **options: Any) -> None:
            super().__init__(*args, **options)
            self.trailer = trailer.encode()

        def _send(self, email_message: EmailMessage) -> bool:
            assert self.connection is not None
            octets = b"Subject: s\r\n\r\n" + self.trailer
            self.connection.sendmail("shop@example.org", email_message.recipients(), octets)
            return True

    return Signing


Signing = _signing()


@pytest.mark.django_db
@pytest.mark.parametrize(
    "dots", ["\x00.", ".\x00", "\x00\x00.\x00"], ids=["before", "after", "both"]
)
@pytest.mark.parametrize("field", ["body", "html", "attachments"])
def test_an_end_that_hides_among_nuls_is_refused_at_the_call(field: str, dots: str) -> None:
    text = f"harmless\r\n{dots}\r\n{SECOND.format(chr(13) + chr(10))}"
    given: dict[str, Any] = {"subject": "s", "body": "b", "recipient_list": ADA}
    given[field] = [("a.txt", text, "text/plain")] if field == "attachments" else text
    with pytest.raises(InvalidMessage, match=r"body, html or attachments: a line is nothing but"):
        send_email(**given)
    assert not Message.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize("text", ["a\x00b", "\x00", "a.\x00", "\x00.a"])
def test_any_other_nul_in_a_text_goes_as_django_sends_it(text: str, server: SloppyServer) -> None:
    send_email("s", f"one\n{text}\ntwo", ADA)
    with delivering_to(server):
        assert testing.deliver() == {"sent": 1}
    (mail,) = server.mails
    assert f"one\r\n{text}\r\ntwo".encode() in mail.data


@pytest.mark.django_db
def test_every_dot_at_the_start_of_a_line_is_doubled() -> None:
    lines = [".", "..", ".a", "a.", "", "...", "."]
    for separator in ("\r\n", "\n", "\r"):
        body = separator.join(lines)
        send_emails([own_mime(b"Subject: s\r\n\r\n" + body.encode())])
        with SloppyServer(strict=True) as server, delivering_to(server):
            assert testing.deliver() == {"sent": 1}
        (mail,) = server.mails
        head, _, came = mail.data.partition(b"\r\n\r\n")
        assert came == b"..\r\n...\r\n..a\r\na.\r\n\r\n....\r\n.."
        assert b"Message-ID" in head


@pytest.mark.django_db
@pytest.mark.parametrize("path", [SMTP, SMTP_BACKEND])
def test_a_signed_message_with_proper_line_ends_goes_octet_for_octet(path: str) -> None:
    head = b"Date: x\r\nMessage-ID: <a@b>\r\nDKIM-Signature: b=\r\n\tabc\r\n"
    octets = head + b"\r\n.a\r\n\r\n\xe9 \x00\r\n"
    send_emails([own_mime(octets)])
    with SloppyServer("8BITMIME", strict=True) as server, delivering_to(server, path=path):
        assert testing.deliver() == {"sent": 1}
    (mail,) = server.mails
    assert mail.data.replace(b"\r\n..", b"\r\n.") + b"\r\n" == octets


@pytest.mark.django_db
def test_a_class_that_adds_to_djangos_rendering_is_left_as_it_is(server: SloppyServer) -> None:
    email = Signed("s", "one\rtwo\nthree\r\n", "shop@example.org", ADA)
    send_emails([email])
    with delivering_to(server):
        assert testing.deliver() == {"sent": 1}
    assert b"X-Signature: abc\r\n" in server.mails[0].data
    assert b"one\r\ntwo\r\nthree" in server.mails[0].data
