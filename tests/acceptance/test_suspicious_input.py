"""Whatever stands in a field: it arrives as a direct send would have it, or is refused at the call.

Every field of a mail × every character that has ever broken something × its place in the text,
through each of the three doors, over a real server.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from email.errors import MessageError
from email.header import decode_header, make_header
from email.parser import BytesParser
from typing import Any

import pytest
from django.core.mail import EmailMessage, EmailMultiAlternatives

from pillarbox import compat, send_email, send_emails, testing
from pillarbox.compat import MODERN_MESSAGES
from pillarbox.conf import QUEUE_BACKEND
from pillarbox.exceptions import InvalidMessage
from pillarbox.models import Attachment, Message, State
from tests.support.delivered import describe, send_directly
from tests.support.mailers import delivering_to
from tests.support.rendered import meaning
from tests.support.smtp_sink import Received, Sink, smtp_sink

pytestmark = pytest.mark.django_db

INTRUDERS = {
    "CR": "\r",
    "LF": "\n",
    "CRLF": "\r\n",
    "NUL": "\x00",
    "VT": "\x0b",
    "FS": "\x1c",
    "ESC": "\x1b",
    "DEL": "\x7f",
    "NEL": "\x85",
    "TAB": "\t",
    "LINE_SEPARATOR": "\u2028",
    "BOM": "\ufeff",
    "RIGHT_TO_LEFT": "\u202e",
    "LONE_SURROGATE": "\udce9",
    "HIGH_SURROGATE": "\ud800",
    "EMOJI": "\U0001f389",
}
PLACES: dict[str, Callable[[str], str]] = {
    "start": lambda character: f"{character}Evil: b",
    "middle": lambda character: f"a{character}Evil: b",
    "end": lambda character: f"a{character}",
}
NEVER_IN_A_HEADER = {"CR", "LF", "CRLF", "NUL"}
NEVER_IN_AN_ADDRESS = {*NEVER_IN_A_HEADER, "VT", "FS", "ESC", "DEL", "NEL"}


def word(text: str) -> str:
    """Return it without what an address or a type could not hold anyway."""
    return text.replace("Evil: b", "Evil")


# The argument of send_email, and how the text is put into it.
FIELDS: dict[str, Callable[[str], dict[str, Any]]] = {
    "subject": lambda text: {"subject": text},
    "body": lambda text: {"body": text},
    "html": lambda text: {"html": text},
    "from_email": lambda text: {"from_email": f"{word(text)}@example.org"},
    "from_email_name": lambda text: {"from_email": f'"{text}" <shop@example.org>'},
    "recipient_list": lambda text: {"recipient_list": [f"{word(text)}@example.org"]},
    "recipient_list_domain": lambda text: {"recipient_list": [f"a@{word(text)}.example"]},
    "recipient_list_name": lambda text: {"recipient_list": [f'"{text}" <a@example.org>']},
    "cc": lambda text: {"cc": [f"{word(text)}@example.org"]},
    "bcc": lambda text: {"bcc": [f'"{text}" <a@example.org>']},
    "reply_to": lambda text: {"reply_to": [f'"{text}" <a@example.org>']},
    "headers_name": lambda text: {"headers": {text: "v"}},
    "headers_value": lambda text: {"headers": {"X-A": text}},
    "headers_message_id": lambda text: {"headers": {"Message-ID": f"<{word(text)}@example.org>"}},
    "attachments_name": lambda text: {"attachments": [(text, "x", "text/plain")]},
    "attachments_binary_name": lambda text: {"attachments": [(text, b"x", "application/x-a")]},
    "attachments_type": lambda text: {"attachments": [("a", "x", f"text/{word(text)}")]},
    "attachments_binary_type": lambda text: {"attachments": [("a", b"x", f"image/{word(text)}")]},
    "attachments_text": lambda text: {"attachments": [("a.txt", text, "text/plain")]},
}
TEXTS = {"body", "html", "attachments_text"}
ADDRESSES = ("from_email", "recipient_list", "cc", "bcc", "reply_to")
GOOD: dict[str, Any] = {
    "subject": "s",
    "body": "b",
    "from_email": "shop@example.org",
    "recipient_list": ["ada@example.org"],
}


def email_of(arguments: dict[str, Any]) -> EmailMultiAlternatives:
    """Make the same mail by hand."""
    given = {**arguments}
    html, to = given.pop("html", None), given.pop("recipient_list")
    email = EmailMultiAlternatives(to=to, **given)
    if html is not None:
        email.attach_alternative(html, "text/html")
    return email


def by_send_email(arguments: dict[str, Any]) -> None:
    send_email(**arguments)


def by_send_emails(arguments: dict[str, Any]) -> None:
    send_emails([email_of(arguments)])


def by_the_queue_backend(arguments: dict[str, Any]) -> None:
    backend = compat.build_backend("default", QUEUE_BACKEND, {"using": None})
    assert backend.send_messages([email_of(arguments)]) == 1


DOORS = (by_send_email, by_send_emails, by_the_queue_backend)
REFUSALS = (ValueError, TypeError, LookupError, MessageError)


@pytest.fixture(scope="module")
def server() -> Iterator[Sink]:
    with smtp_sink(enable_SMTPUTF8=False) as sink:
        yield sink


@pytest.fixture
def sink(server: Sink) -> Iterator[Sink]:
    server.clear()
    with delivering_to(server):
        yield server


def directly(arguments: dict[str, Any], sink: Sink) -> Any:
    """Return what a direct send makes of it, None where Django refuses."""
    try:
        send_directly(email_of(arguments), sink)
    except REFUSALS:
        return None
    return said(sink.received[-1])


def said(received: Received) -> tuple[Any, ...]:
    """Return envelope and content, whichever transfer encoding they came in."""
    try:
        content = meaning(received.data)
    except IndexError:  # Python 3.11's parser, over a control character in an address
        content = describe(received.data)
    return received.mail_from, received.rcpt_tos, content


def is_queued(door: Callable[..., None], arguments: dict[str, Any]) -> bool:
    """Queue it and return True, or False where it is refused at the call, which leaves nothing."""
    before = Message.objects.count(), Attachment.objects.count()
    # Django's own exceptions come through, but to the caller of send_email who gave arguments.
    refusals = InvalidMessage if door is by_send_email else REFUSALS
    try:
        door(arguments)
    except refusals:
        assert (Message.objects.count(), Attachment.objects.count()) == before
        return False
    return True


def delivered(count: int, sink: Sink) -> list[Received]:
    """Deliver what is queued and return it, in the order in which it was queued."""
    sink.received.clear()
    assert testing.deliver() == ({"sent": count} if count else {})
    assert len(sink.received) == count
    return list(sink.received)


def pinned(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments with the Date and Message-ID that a direct send is given."""
    own = {"Date": "Tue, 24 Nov 2026 04:30:00 +0000", "Message-ID": "<1@example.org>"}
    return {**arguments, "headers": {**own, **arguments.get("headers", {})}}


@pytest.mark.parametrize("intruder", INTRUDERS)
@pytest.mark.parametrize("field", FIELDS)
def test_suspicious_text_is_delivered_as_django_does_or_refused_at_the_call(
    field: str, intruder: str, sink: Sink
) -> None:
    wanted = []
    for place in PLACES.values():
        arguments = pinned({**GOOD, **FIELDS[field](place(INTRUDERS[intruder]))})
        direct = directly(arguments, sink)
        for door in DOORS:
            if is_queued(door, arguments):
                assert not must_be_refused(field, intruder)
                wanted.append(direct)
            else:
                assert direct is None or may_be_refused(field, intruder, door)
    came = delivered(len(wanted), sink)
    assert [said(one) for one in came] == wanted
    for one in came:
        assert "Evil" not in BytesParser().parsebytes(one.data)


def must_be_refused(field: str, intruder: str) -> bool:
    """Whether nothing of the kind may ever leave."""
    if field.startswith(ADDRESSES):
        return intruder in NEVER_IN_AN_ADDRESS
    return field not in TEXTS and intruder in NEVER_IN_A_HEADER


def may_be_refused(field: str, intruder: str, door: Callable[..., None]) -> bool:
    """Whether we may refuse what Django would send."""
    if field == "headers_name":
        return door is by_send_email or intruder in NEVER_IN_A_HEADER
    if field in {"from_email", "recipient_list", "cc"} and not INTRUDERS[intruder].isascii():
        return not MODERN_MESSAGES  # Django 5.2 makes another mailbox of it
    return must_be_refused(field, intruder)


@pytest.mark.parametrize("intruder", INTRUDERS)
@pytest.mark.parametrize("field", sorted(TEXTS))
def test_a_text_arrives_intact_but_for_its_line_ends(field: str, intruder: str, sink: Sink) -> None:
    texts = [f"{place(INTRUDERS[intruder])}\nend" for place in PLACES.values()]
    queued = [is_queued(by_send_email, {**GOOD, **FIELDS[field](text)}) for text in texts]
    assert queued == [("SURROGATE" not in intruder)] * len(texts)
    came = delivered(sum(queued), sink)
    for text, received in zip(texts if came else [], came, strict=True):
        leaves = BytesParser().parsebytes(received.data).walk()
        octets = [leaf.get_payload(decode=True) for leaf in leaves if not leaf.is_multipart()]
        wanted = re.sub("\r\n|\r|\n", "\r\n", text).encode()
        assert wanted in [each.rstrip(b"\r\n") for each in octets if isinstance(each, bytes)]


# ------------------------------------------------------------------------ named arguments


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"subject": "a\n"}, ["subject", r"'\\n'|one line"]),
        ({"subject": "a\x00"}, ["subject", "x00", "Take it out"]),
        ({"headers": {"X-A": "a\x00"}}, [r"headers\['X-A'\]", "x00"]),
        ({"headers": {"X-A\n": "a"}}, ["headers has the name", "printable ASCII"]),
        ({"attachments": [("a\nb", b"x", "image/png")]}, [r"attachments\[0\]"]),
        ({"attachments": [("a", b"x", "image/png\n")]}, [r"attachments\[0\]"]),
        ({"attachments": [("a\x00", "x", "text/plain")]}, [r"attachments\[0\]", "x00"]),
        ({"recipient_list": ["a@b.org", "a\x1b@b.org"]}, [r"recipient_list\[1\]", "x1b"]),
        ({"recipient_list": [f"{'a' * 330}@b.org"]}, [r"recipient_list\[0\]", "320 characters"]),
        ({"recipient_list": ["(" * 2000 + "a@b.org"]}, [r"recipient_list\[0\]", "comments"]),
        ({"cc": ["a\x00@b.org"]}, [r"cc\[0\]", "control character"]),
        ({"bcc": ["a\x7f@b.org"]}, [r"bcc\[0\]", "control character"]),
        ({"reply_to": [f"a@{'b' * 330}"]}, [r"reply_to\[0\]", "320 characters"]),
        ({"from_email": "a\x01@b.org"}, ["from_email", "control character"]),
        ({"recipient_list": ["почта@b.org"]}, [r"recipient_list\[0\]", "local-part", "non-ASCII"]),
    ],
)
def test_send_email_names_the_argument_and_the_remedy(
    given: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(InvalidMessage) as caught:
        send_email(**{**GOOD, **given})
    for each in words:
        assert re.search(each, str(caught.value))
    assert re.search(r"Pass|Take|Use", str(caught.value))
    assert not Message.objects.exists()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"to": ["a@b.org", "a\x1b@b.org"]}, r"to\[1\]|nvalid address"),
        ({"bcc": [f"{'a' * 330}@b.org"]}, r"bcc\[0\] is longer than the 320 characters"),
        ({"reply_to": ["\x1f"]}, r"reply_to\[0\] holds the control character '\\x1f'"),
        ({"headers": {"X\r\nBcc": "a@b.org"}}, r"The name of headers\['X\\r\\nBcc'\] holds '\\r'"),
    ],
)
def test_messages_of_django_are_refused_by_field(fields: dict[str, Any], words: str) -> None:
    good = EmailMessage("s", "b", to=["a@b.org"])
    bad = EmailMessage("s", "b", **{"to": ["a@b.org"], **fields})
    with pytest.raises(ValueError, match=words) as caught:
        send_emails([good, bad])
    assert "It is message number 2 of those given." in caught.value.__notes__
    assert not Message.objects.exists()


# ------------------------------------------------------------ addresses beyond ASCII, To twice


def test_the_domain_of_an_address_goes_as_its_a_label(sink: Sink) -> None:
    send_email(**{**GOOD, "recipient_list": ["ann@bücher.example", "bob@例え.jp"]})
    assert testing.deliver() == {"sent": 1}
    (received,) = sink.received
    assert received.rcpt_tos == ("ann@xn--bcher-kva.example", "bob@xn--r8jz45g.jp")
    assert "SMTPUTF8" not in received.mail_options
    states = Message.objects.get().recipients.values_list("address", "state")
    assert set(states) == {("ann@bücher.example", "sent"), ("bob@例え.jp", "sent")}


def test_one_that_needs_smtputf8_fails_alone_where_the_server_lacks_it(
    sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No call lets it in; a row of another release, or a mailer that has changed since, may.
    with monkeypatch.context() as unchecked:
        unchecked.setattr("pillarbox.codec.check", lambda *_, **__: None)
        send_email(**{**GOOD, "subject": "utf8", "recipient_list": ["почта@example.org"]})
    send_email(**{**GOOD, "subject": "plain"})
    path = f"{__name__}.Internationalised"
    with delivering_to(sink, path=path):
        assert testing.deliver() == {"failed": 1, "sent": 1}
    assert [BytesParser().parsebytes(one.data)["Subject"] for one in sink.received] == ["plain"]
    failed = Message.objects.get(state=State.FAILED)
    assert "SMTPUTF8 not supported by server" in failed.trail.get().reply
    assert sink.connections >= 1


def _internationalised() -> Any:
    from pillarbox.backends.smtp import EmailBackend

    class Internationalised(EmailBackend):
        """Uses SMTPUTF8 (RFC 6531) where an address needs it, as Django documents."""

        def _send(self, email_message: EmailMessage) -> bool:
            recipients = email_message.recipients()
            needed = not all(one.isascii() for one in recipients)
            assert self.connection is not None
            self.connection.sendmail(
                email_message.from_email,
                recipients,
                b"Subject: %b\r\n\r\nx" % str(email_message.subject).encode(),
                mail_options=["SMTPUTF8"] if needed else [],
            )
            return True

    return Internationalised


Internationalised = _internationalised()


@pytest.mark.parametrize("name", ["To", "to", "TO"])
@pytest.mark.parametrize("door", DOORS)
def test_a_header_that_repeats_to_is_shown_and_changes_no_envelope(
    door: Callable[..., None], name: str, sink: Sink
) -> None:
    arguments = pinned({**GOOD, "headers": {name: "Everybody <all@example.org>"}})
    direct = directly(arguments, sink)
    assert is_queued(door, arguments)
    (came,) = delivered(1, sink)
    assert said(came) == direct
    assert came.rcpt_tos == ("ada@example.org",)
    shown = BytesParser().parsebytes(came.data).get_all("To")
    assert shown is not None
    assert len(shown) == 1
    assert str(make_header(decode_header(shown[0]))) in {
        "Everybody <all@example.org>",
        "ada@example.org",
    }
