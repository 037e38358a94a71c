"""What the call finds out, and what it costs."""

from __future__ import annotations

from datetime import UTC, datetime
from email.message import Message, MIMEPart
from typing import Any

import pytest
from django.core.mail import EmailMessage
from django.utils.functional import lazystr

from pillarbox import codec, send_email
from pillarbox.attachments import MemoryBlobs
from pillarbox.codec.shapes import render
from pillarbox.compat import MODERN_MESSAGES
from pillarbox.exceptions import AttachmentTooLarge, InvalidMessage
from tests.corpus.attached import PNG, RFC822
from tests.corpus.builders import alternatives, plain


class Rendered(Exception):
    """Raised in the place of rendering."""


@pytest.fixture
def no_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    def message(self: EmailMessage, **options: Any) -> Any:
        raise Rendered

    monkeypatch.setattr(EmailMessage, "message", message)


def common() -> dict[str, EmailMessage]:
    attached = alternatives(("<p>ü</p>", "text/html"), headers={"List-Unsubscribe": "<x>"})
    attached.attach("Überblick.pdf", b"%PDF", "application/pdf")
    attached.attach(None, PNG, "image/png")
    attached.attach("a.csv", "ü;b", "text/csv")
    tagged = plain()
    tagged.tags = ["a"]  # type: ignore[attr-defined]
    return {
        "text": plain(subject="Größe 🎉", body="Jürgen\n"),
        "everything": attached,
        "names": plain(
            from_email="Shop <shop@example.org>",
            to=["Zoe Z <z@example.org>", '"Z., Zoe" <z@example.org>', "root@localhost"],
            bcc=["o'hara+x@a-b.example.org"],
        ),
        "attributes": tagged,
        "none": with_none(),
    }


def with_none() -> EmailMessage:
    email = alternatives()
    email.attachments = None  # type: ignore[assignment]
    email.alternatives = None  # type: ignore[assignment]
    return email


@pytest.mark.parametrize("name", common())
@pytest.mark.usefixtures("no_rendering")
def test_a_common_message_is_not_rendered_at_the_call(name: str) -> None:
    codec.check(common()[name])


@pytest.mark.parametrize(
    "email",
    [
        plain(to=["Zoë <z@example.org>"]),
        plain(to=["z@bücher.example"]),
        plain(to=["=?utf-8?q?a?= <z@example.org>"]),
        plain(to=[f"a@{'x' * 64}.org"]),
        plain(to=[f"{'x' * 320}@example.org"]),
        plain(subject="tab\there"),
        plain(subject="=?utf-8?q?a?="),
        plain(headers={"X-Note": "=?utf-8?q?a?="}),
        plain(attachments=[("=?utf-8?q?a?=.pdf", b"", "application/pdf")]),
        plain(body="nul\x00"),
        plain(headers={"Sender": "a@example.org"}),
        alternatives(("BEGIN:", "text/calendar; method=REQUEST")),
        plain(attachments=[('a"b.pdf', b"", "application/pdf")]),
        plain(attachments=[("a.eml", RFC822, "message/rfc822")]),
    ],
    ids=[
        *("name", "idn", "word", "long", "longer", "tab", "subject", "header", "file", "nul"),
        *("sender", "ics", "quote", "eml"),
    ],
)
@pytest.mark.usefixtures("no_rendering")
def test_any_other_message_is_rendered_at_the_call(email: EmailMessage) -> None:
    with pytest.raises(Rendered) as caught:
        codec.check(email)

    assert caught.value.__notes__ == [
        "Pillarbox found this before queueing the message; nothing was queued."
    ]


HIDDEN = {
    "CRLF in a file's name": plain(
        attachments=[("=?utf-8?q?a=0D=0AX-Evil:_b?=.pdf", b"", "application/pdf")]
    ),
    "CRLF in a type": plain(
        attachments=[("a.pdf", b"", 'application/pdf; name="=?utf-8?q?a=0D=0AX-Evil:_b?="')]
    ),
    "LF in Message-ID": plain(headers={"Message-ID": "=?us-ascii?q?a=0AX-Evil:y?="}),
    "NUL in Subject": plain(subject="=?utf-8?q?a=00b?="),
    "NUL in a header": plain(headers={"X-Note": "=?utf-8?q?a=00b?="}),
    "a lone surrogate": plain(subject="=?utf-7?q?+2AA-?="),
    "octets of no character": plain(subject="=?gb18030?b?7aCA?= ü"),
}


@pytest.mark.parametrize("email", HIDDEN.values(), ids=HIDDEN)
def test_what_an_encoded_word_hides_is_found_at_the_call(email: EmailMessage) -> None:
    if not MODERN_MESSAGES:  # nobody reads the words, so that they hide nothing
        codec.check(email)
        octets = render(email)
        assert b"\nX-Evil" not in octets
        assert b"\0" not in octets
        return
    with pytest.raises(ValueError, match=r"encoded words in the header|surrogates|codec can't"):
        codec.check(email)


@pytest.mark.skipif(not MODERN_MESSAGES, reason="Before Django 6 nobody reads the words.")
def test_the_argument_is_named_whose_encoded_word_hides_something() -> None:
    with pytest.raises(InvalidMessage, match=r"attachments\[0\] cannot be sent: the encoded words"):
        send_email("s", "b", ["a@b.org"], attachments=HIDDEN["CRLF in a type"].attachments)


@pytest.mark.skipif(not MODERN_MESSAGES, reason="Django 5.2 has no MIMEPart attached.")
def test_a_part_that_cannot_be_carried_is_named() -> None:
    part = MIMEPart()
    part.set_content(b"", "image", "png", filename="=?utf-8?q?a=0D=0AX-Evil:_b?=.png")

    with pytest.raises(InvalidMessage, match=r"attachments\[0\] cannot be sent: it cannot be carr"):
        send_email("s", "b", ["a@b.org"], attachments=[part])


def test_an_encoded_word_that_hides_nothing_passes() -> None:
    codec.check(plain(subject="=?utf-8?q?caf=C3=A9?="))


def test_an_address_that_only_an_api_can_send_to_passes_where_the_mailer_is_one() -> None:
    email = plain(from_email="a@example.org, b@example.org")

    with pytest.raises(ValueError, match="nvalid address"):
        codec.check(email)
    codec.check(email, smtp=False)


def attached(content: Any) -> EmailMessage:
    email = plain()
    email.attachments = [("a", b"1", "image/png"), ("b", content, "image/png")]
    return email


def parts() -> dict[str, EmailMessage]:
    part, bundle = Message(), Message()
    part.set_payload("123456789")
    bundle.attach(part)
    inner = plain()
    inner.attach("c", "123456789", "text/plain")
    return {
        "bytes": attached(b"123456789"),
        "bytearray": attached(bytearray(9)),
        "text": attached("ä" * 4 + "b"),
        "message": attached(inner),
        "part": attached(bundle),
    }


@pytest.mark.parametrize("name", parts())
def test_attachments_over_the_limit_are_refused(name: str, settings: Any) -> None:
    settings.PILLARBOX = {"ATTACHMENTS": {"limit": 9}}

    with pytest.raises(AttachmentTooLarge, match=r"10 bytes are over the limit of 9. Send a link"):
        codec.check(parts()[name])


def test_attachments_at_the_limit_pass(settings: Any) -> None:
    settings.PILLARBOX = {"ATTACHMENTS": {"limit": 10}}

    codec.check(attached(b"123456789"))


def inert() -> dict[str, EmailMessage]:
    given = common()
    html = plain(body="<p>\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"))
    html.content_subtype = "html"
    return {
        **{name: given[name] for name in ("text", "names", "none")},
        "empty": EmailMessage(to=["a@example.org"]),
        "html": html,
        "two": alternatives(
            ("<p>ü</p>", "text/html"), ("#", "text/markdown"), headers={"X-A": "1"}
        ),
        "everywhere": plain(
            cc=["c@example.org"], bcc=["b@example.org"], reply_to=["r@example.org"]
        ),
    }


@pytest.mark.parametrize("name", inert())
def test_what_is_but_text_is_encoded_the_short_way_to_the_same(name: str) -> None:
    email = inert()[name]
    codec.check(email)
    letter = codec.letter_of(email)
    assert letter is not None
    date = datetime(2026, 3, 1, 12, 5, tzinfo=UTC)
    short = codec.encode_letter(letter, message_id="<a@b>", date=codec.header_date(date))
    assert short == codec.encode(email, MemoryBlobs(), message_id="<a@b>", date=date)


def lively() -> dict[str, EmailMessage]:
    class Own(EmailMessage):
        pass

    given = common()
    return {
        **{name: given[name] for name in ("everything", "attributes")},
        "class": Own(to=["a@example.org"]),
        "lazy": plain(subject=lazystr("s")),
        "headers": plain(headers=CaseInsensitive({"X-A": "1"})),
        "rendered": plain(subject="a\tb"),
        "no hash": plain(from_email=Unhashable("shop@example.org")),
        "no hash either": alternatives(("<p>", Unhashable("text/html"))),
        "folded": plain(headers={"X-" + "a" * 76: ""}),
    }


class Unhashable(str):
    """A string that nothing can be kept by."""

    __hash__ = None  # type: ignore[assignment]


class CaseInsensitive(dict[str, str]):
    """As some packages give for headers."""


@pytest.mark.parametrize("name", lively())
def test_what_may_run_code_of_others_is_not_taken_for_text(name: str) -> None:
    assert codec.letter_of(lively()[name]) is None


def test_a_string_without_a_hash_is_a_string() -> None:
    email = alternatives(("<p>", Unhashable("text/html")), from_email=Unhashable("a@example.org"))
    email.content_subtype = Unhashable("html")
    email.attach("a.txt", "a", Unhashable("text/plain"))
    codec.check(email)
