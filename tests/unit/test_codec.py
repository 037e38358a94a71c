"""What is carried, and what the text of it looks like."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.message import Message
from typing import Any

import pytest
from django.core.mail import EmailMessage
from django.utils import translation
from django.utils.functional import lazystr
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy

from pillarbox import codec
from pillarbox.attachments import MemoryBlobs
from pillarbox.exceptions import InvalidMessage, PillarboxError
from tests.corpus.builders import CORPUS, Builder, alternatives, plain
from tests.corpus.messages import Signed
from tests.support.delivered import MESSAGE_ID, carried, encoded


@pytest.mark.parametrize("build", CORPUS.values(), ids=CORPUS)
def test_encoding_only_reads_the_message(build: Builder) -> None:
    email = build()
    before = snapshot(email)

    codec.check(email)
    encoded(email)

    assert snapshot(email) == before


def snapshot(email: EmailMessage) -> str:
    def describe(value: Any) -> Any:
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value).hex()
        return vars(value) if hasattr(value, "__dict__") else repr(value)

    return json.dumps(vars(email), default=describe)


@pytest.mark.parametrize("build", CORPUS.values(), ids=CORPUS)
def test_what_was_decoded_can_be_queued_again(build: Builder) -> None:
    blobs = MemoryBlobs()
    once = encoded(build(), blobs)

    twice = encoded(codec.decode(once, blobs), blobs)

    assert codec.message_id(twice) == codec.message_id(once)
    assert codec.decode(twice, blobs).recipients() == codec.decode(once, blobs).recipients()


@pytest.mark.parametrize("build", [plain, alternatives])
def test_what_is_decoded_has_what_a_new_message_has_and_shares_none_of_it(build: Builder) -> None:
    content = encoded(build())
    one, other = (vars(codec.decode(content, MemoryBlobs())) for _ in range(2))

    assert one.keys() == vars(type(build())()).keys()
    shared = {name for name in one if one[name] is other[name]}
    assert not any(isinstance(one[name], list | dict) for name in shared)


def test_the_content_is_versioned_json_without_what_is_default() -> None:
    content = json.loads(encoded(plain(subject="Größe", from_email="a@example.org")))

    assert content.pop("date").startswith("Tue, 24 Nov 2026 04:30:00")
    assert content == {
        "v": 1,
        "subject": "Größe",
        "from_email": "a@example.org",
        "to": ["customer@example.com"],
        "body": "Thank you.\n",
        "message_id": MESSAGE_ID,
    }


def test_nuls_and_lone_surrogates_are_escaped_and_come_back() -> None:
    email = plain(body="nul \x00, undecodable \udce9", headers={"X-A": "\x00"})

    content = encoded(email)

    assert content.isascii()
    assert "\x00" not in content
    assert carried(email).body == email.body
    assert carried(email).extra_headers["X-A"] == "\x00"


def test_a_character_spelt_as_two_surrogates_is_refused() -> None:
    with pytest.raises(InvalidMessage, match=r"body holds a surrogate pair .* Mend it: value"):
        codec.check(plain(body="\ud83d" + "\ude00"))


def test_a_string_is_its_own_characters_whatever_it_writes_itself_as() -> None:
    class Shout(str):
        def __str__(self) -> str:
            return "SHOUT"

    part = Message()
    part["X-Part"] = Shout("part")
    email = plain(
        subject=Shout("subject"),
        from_email=Shout("from@example.org"),
        to=[Shout("to@example.org")],
        headers={Shout("X-Name"): Shout("value")},
    )
    email.attachments = [part]

    there = carried(email)

    assert (there.subject, there.from_email, there.to) == (
        *("subject", "from@example.org", ["to@example.org"]),
    )
    assert there.extra_headers["X-Name"] == "value"
    assert there.attachments[0]["X-Part"] == "part"


@pytest.mark.parametrize("content", ["", "{}", '{"v":2,"subject":""}', '{"v":11}', "gASV"])
def test_content_of_another_version_is_not_guessed_at(content: str) -> None:
    with pytest.raises(PillarboxError, match="is not of version 1, the one that this release"):
        codec.decode(content, MemoryBlobs())


@pytest.mark.parametrize("more", ["{}", "x", '"$'], ids=repr)
def test_content_that_something_follows_is_not_read_as_if_it_were_whole(more: str) -> None:
    content = encoded(plain())
    with pytest.raises(PillarboxError, match=r"cannot be read: .* has written to the row"):
        codec.decode(content + more, MemoryBlobs())
    assert codec.decode(content + "\n", MemoryBlobs()).subject == plain().subject


def test_message_id_and_date_are_pinned_where_django_writes_them() -> None:
    headers = carried(plain(headers={"X-A": "a"})).extra_headers

    assert list(headers) == ["Date", "Message-ID", "X-A"]
    assert headers["Message-ID"] == MESSAGE_ID


def test_headers_of_its_own_are_kept_instead_in_any_case() -> None:
    email = plain(
        headers={"MESSAGE-id": "<own@example.org>", "date": "Fri, 02 Jan 2026 03:04:05 Z"}
    )

    assert carried(email).extra_headers == email.extra_headers
    assert codec.message_id(encoded(email)) == "<own@example.org>"


def test_two_renderings_are_the_same_mail() -> None:
    email = carried(plain())

    assert email.message()["Message-ID"] == email.message()["Message-ID"] == MESSAGE_ID
    assert email.message()["Date"] == email.message()["Date"]


@pytest.mark.parametrize("local", [False, True])
def test_the_date_is_written_as_django_writes_it(local: bool, settings: Any) -> None:
    settings.EMAIL_USE_LOCALTIME = local
    settings.TIME_ZONE = "Asia/Tokyo"
    now = datetime.now(UTC)
    email = plain()
    blobs = MemoryBlobs()

    content = codec.encode(email, blobs, message_id=MESSAGE_ID, date=now)

    ours, djangos = codec.decode(content, blobs).message()["Date"], email.message()["Date"]
    assert str(ours)[-5:] == str(djangos)[-5:]
    assert str(ours)[:16] == str(djangos)[:16]


def test_lazy_text_is_resolved_at_the_call_in_the_callers_language() -> None:
    email = plain(subject=gettext_lazy("Yes"), body=gettext_lazy("No"))
    email.metadata = {"answer": gettext_lazy("Yes")}  # type: ignore[attr-defined]

    with translation.override("de"):
        content = encoded(email)

    twin: Any = codec.decode(content, MemoryBlobs())
    assert (twin.subject, twin.body, twin.metadata) == ("Ja", "Nein", {"answer": "Ja"})


def test_subclasses_of_text_become_text() -> None:
    email = carried(plain(subject=mark_safe("<b>"), body=mark_safe("<i>"), to=[lazystr("a@b.c")]))

    assert [type(one) for one in (email.subject, email.body, email.to[0])] == [str, str, str]


def test_its_connection_and_its_status_stay_behind() -> None:
    email = plain()
    email._connection = object()  # type: ignore[attr-defined]
    email.anymail_status = object()  # type: ignore[attr-defined]
    email.pillarbox = {"stream": "bulk"}  # type: ignore[attr-defined]
    email._private = object()  # type: ignore[attr-defined]

    assert carried(email).__dict__.keys() == EmailMessage().__dict__.keys()


def test_attachments_are_named_in_the_content_and_kept_beside_it() -> None:
    inner = alternatives(("<p>", "text/html"))
    inner.attach("deep.bin", b"deep", "image/png")
    email = plain()
    email.attach("a.pdf", b"%PDF" * 100, "application/pdf")
    email.attach("inner.eml", inner, "message/rfc822")

    content = encoded(email)

    assert len(content) < 1200
    assert codec.attachment_ids(content) == [0, 1]


def test_whether_rows_will_be_written_is_known_before() -> None:
    with_message: Any = alternatives((plain(), "message/rfc822"))
    attached = plain()
    attached.attach("a.txt", "x", "text/plain")

    assert not codec.has_blobs(alternatives(("<p>", "text/html"), (b"\x00", "image/png")))
    assert codec.has_blobs(with_message)
    assert codec.has_blobs(attached)
    assert codec.has_blobs(Signed())


GOLDEN = """{"v":1,"class":"EmailMultiAlternatives","subject":"Gr\\u00f6\\u00dfe",
"from_email":"a@example.org",
"to":["b@example.org"],"bcc":["c@example.org"],"body":"text","message_id":"<1@example.org>",
"date":"Tue, 24 Nov 2026 04:30:00 +0000","headers":{"X-A":"a"},"content_subtype":"html",
"attributes":{"tags":["t"],"send_at":{"$datetime":"2026-11-24T04:30:00+00:00"},
"metadata":{"$dict":[["$x",{"$decimal":"1.50"}],[5,{"$tuple":[1,{"$timedelta":[0,60,0]}]}]]}},
"alternatives":[["<p>","text/html"],[{"$bytes":"AP8="},"image/png"]],
"attachments":[["a.bin",{"$blob":[0,"x"]},"image/png"],["b.txt",{"$text":[1,"x"]},"text/plain"],
["in.eml",{"$email":{"subject":"in","from_email":"x@example.org"}},"message/rfc822"],
{"$part":{"kind":"message","headers":[["X-B","b"]],"payload":{"$text":[1,"x"]}}}]}""".replace(
    "\n", ""
)


def test_content_that_an_older_release_wrote_is_read() -> None:
    blobs = MemoryBlobs()
    blobs.put(b"\x00\xff")
    blobs.put("Jürgen".encode())

    email: Any = codec.decode(GOLDEN, blobs)

    assert (email.subject, email.body, email.content_subtype) == ("Größe", "text", "html")
    assert (email.to, email.bcc, email.cc) == (["b@example.org"], ["c@example.org"], [])
    assert email.extra_headers["X-A"] == "a"
    assert email.send_at == datetime(2026, 11, 24, 4, 30, tzinfo=UTC)
    assert email.metadata == {"$x": Decimal("1.50"), 5: (1, timedelta(minutes=1))}
    assert [tuple(one) for one in email.alternatives] == [
        ("<p>", "text/html"),
        (b"\x00\xff", "image/png"),
    ]
    binary, text, inner, part = email.attachments
    assert tuple(binary) == ("a.bin", b"\x00\xff", "image/png")
    assert tuple(text) == ("b.txt", "Jürgen", "text/plain")
    assert inner.content.from_email == "x@example.org"
    assert (part["X-B"], part.get_payload()) == ("b", "Jürgen")
    assert codec.attachment_ids(GOLDEN) == [0, 1]
