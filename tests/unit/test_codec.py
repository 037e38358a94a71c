"""What is carried, how it comes back, and what the text of it looks like."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from email.charset import QP, Charset
from email.header import Header
from email.headerregistry import Address, Group
from typing import Any

import pytest
from anymail.message import AnymailMessage
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.utils import translation
from django.utils.datastructures import CaseInsensitiveMapping
from django.utils.functional import lazystr
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy
from hypothesis import given
from hypothesis import strategies as st

from pillarbox import codec
from pillarbox.attachments import MemoryBlobs
from pillarbox.codec.values import UNPACKERS, pack, unpacker
from pillarbox.exceptions import InvalidMessage, PillarboxError, Uncarriable
from tests.corpus.messages import CORPUS, Builder, Mailing, Signed, alternatives, plain
from tests.support.delivered import DATE, MESSAGE_ID


def encoded(email: EmailMessage, blobs: MemoryBlobs | None = None) -> str:
    return codec.encode(email, blobs or MemoryBlobs(), message_id=MESSAGE_ID, date=DATE)


def carried(email: EmailMessage) -> Any:
    blobs = MemoryBlobs()
    return codec.decode(encoded(email, blobs), blobs)


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


@pytest.mark.parametrize("content", ["", "{}", '{"v":2,"subject":""}', '{"v":11}', "gASV"])
def test_content_of_another_version_is_not_guessed_at(content: str) -> None:
    with pytest.raises(PillarboxError, match="is not of version 1, the one that this release"):
        codec.decode(content, MemoryBlobs())


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


# --------------------------------------------------------------------------------------- attributes

ANYMAIL: dict[str, Any] = {
    "envelope_sender": "bounces@example.org",
    "esp_extra": {"ip_pool": None, "weights": (1, 2.5)},
    "merge_data": {"a@example.org": {"total": Decimal("9.90"), "due": date(2026, 11, 24)}},
    "merge_global_data": {"site": "Büro"},
    "merge_headers": {"a@example.org": {"List-Unsubscribe": "<https://example.org/a>"}},
    "merge_metadata": {"a@example.org": {"order": 42}},
    "metadata": {"at": datetime(2026, 1, 2, tzinfo=UTC), "wait": timedelta(days=-1, seconds=5)},
    "send_at": datetime(2026, 11, 24, 4, 30, tzinfo=timezone(timedelta(hours=5, minutes=45))),
    "tags": ["receipt", "$tuple"],
    "template_id": "welcome",
    "track_clicks": False,
    "track_opens": True,
}


@pytest.mark.parametrize("cls", [EmailMessage, AnymailMessage])
def test_anymails_attributes_survive(cls: type[EmailMessage]) -> None:
    email = cls("Subject", "body", to=["a@example.org"])
    for name, value in ANYMAIL.items():
        setattr(email, name, value)

    codec.check(email)
    twin = carried(email)

    assert {name: getattr(twin, name) for name in ANYMAIL} == ANYMAIL


def classes(*emails: EmailMessage) -> list[type]:
    return [type(email) for email in emails]


def test_what_anymail_calls_unset_is_not_carried() -> None:
    email = AnymailMessage("Subject", "body", to=["a@example.org"], tags=["a"])

    twin: Any = carried(email)

    assert classes(twin) == [EmailMultiAlternatives]
    assert list(json.loads(encoded(email))["attributes"]) == ["tags"]
    assert twin.tags == ["a"]
    assert not hasattr(twin, "metadata")


def test_attributes_of_a_class_survive() -> None:
    class Receipt(EmailMessage):
        tags = ["receipt"]
        categories = ("a", "b")
        renderer = object()

        def preview(self) -> str:
            return str(self.body)

    twin: Any = carried(Receipt("Subject", "body"))

    assert classes(twin) == [EmailMessage]
    assert (twin.tags, twin.categories) == (["receipt"], ("a", "b"))
    assert not hasattr(twin, "renderer")


def test_an_attribute_that_cannot_be_carried_is_refused_by_its_name() -> None:
    email = plain()
    email.esp_extra = {"files": [{"handle": object()}]}  # type: ignore[attr-defined]

    with pytest.raises(
        Uncarriable, match=r"esp_extra\['files'\]\[0\]\['handle'\] holds an object of builtins.obj"
    ) as caught:
        codec.check(email)

    assert "delete it before sending" in str(caught.value)


def test_an_attachment_that_cannot_be_carried_is_refused_by_its_number() -> None:
    email = plain()
    email.attachments = [("a.bin", b"", "image/png"), ("b.bin", object(), "image/png")]

    with pytest.raises(Uncarriable, match=r"attachments\[1\] has a object as its content"):
        encoded(email)


@pytest.mark.parametrize("name", ["to", "cc", "bcc", "reply_to"])
def test_a_text_for_a_list_of_addresses_is_refused(name: str) -> None:
    email = plain()
    setattr(email, name, "a@example.org")

    with pytest.raises((InvalidMessage, TypeError)):
        codec.check(email)
    with pytest.raises(InvalidMessage, match=f"{name} is the text .* Give a list"):
        encoded(email)


# ------------------------------------------------------------------------------------------- values


def unfolded(moment: Any) -> Any:
    """Return the moment without its fold, which an offset makes plain and ISO 8601 has not."""
    return moment.replace(fold=0)


atoms = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.datetimes(timezones=st.just(UTC)).map(unfolded),
    st.datetimes().map(unfolded),
    st.dates(),
    st.times().map(unfolded),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
)
keys = st.one_of(st.text(), st.just("$tuple"), st.integers(), st.tuples(st.text()))
values = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.lists(inner), st.lists(inner).map(tuple), st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=10,
)


@given(values)
def test_any_value_comes_back_as_it_was(value: Any) -> None:
    text = json.dumps(pack(value, "metadata"), allow_nan=False)

    back = json.loads(text, object_hook=unpacker(UNPACKERS))

    assert back == value
    assert repr(back) == repr(value)


@pytest.mark.parametrize(
    "value",
    [
        Address("Jürgen", "j", "example.org"),
        Group("list", (Address("", "a", "example.org"),)),
        float("inf"),
        float("nan"),
        time(3, 4, tzinfo=UTC),
        uuid.UUID(int=1),
    ],
)
def test_a_rare_value_comes_back_as_it_was(value: Any) -> None:
    back = json.loads(json.dumps(pack(value, "x")), object_hook=unpacker(UNPACKERS))

    assert repr(back) == repr(value)


def test_charsets_and_headers_of_pythons_email_come_back() -> None:
    charset = Charset("utf-8")
    charset.body_encoding = QP
    header = Header("Grüße", "iso-8859-1")
    header.append("plain", "us-ascii")

    back = json.loads(json.dumps(pack([charset, header], "x")), object_hook=unpacker(UNPACKERS))

    assert vars(back[0]) == vars(charset)
    assert back[1].encode() == header.encode()


@pytest.mark.parametrize("value", [object(), {1}, 1j, range(3), CaseInsensitiveMapping({})])
def test_any_other_value_is_refused(value: Any) -> None:
    with pytest.raises(Uncarriable, match="tags holds an object of"):
        pack(value, "tags")


def test_headers_that_ignore_case_are_found_as_django_finds_them() -> None:
    email = plain(headers=CaseInsensitiveMapping({"FROM": "shown@example.org", "x-a": "1"}))

    assert carried(email).message()["From"] == email.message()["From"] == "shown@example.org"


# ------------------------------------------------------------------------------------- raw classes


def test_a_class_that_writes_its_own_mime_is_carried_as_these_bytes() -> None:
    email = Signed("Größe", "Jürgen", "a@example.org", ["b@example.org"], bcc=["c@example.org"])

    twin = carried(email)

    assert codec.renders_itself(email)
    assert isinstance(twin, codec.RawMessage)
    assert b"X-Signature: abc\r\n" in twin.raw
    assert f"Message-ID: {MESSAGE_ID}".encode() in twin.raw
    assert twin.message()["X-Signature"] == "abc"
    assert twin.message().as_bytes(linesep="\r\n") == twin.raw
    assert twin.message().as_bytes() == twin.raw.replace(b"\r\n", b"\n")
    assert twin.from_email == "a@example.org"
    assert twin.recipients() == ["b@example.org", "c@example.org"]


def test_a_method_put_on_one_message_counts_as_its_classs() -> None:
    email = plain()
    email.recipients = lambda: ["x@example.org"]  # type: ignore[method-assign]
    signed = plain()
    signed.message = Signed("s", "b", "a@b.c", ["b@b.c"]).message  # type: ignore[method-assign]

    assert carried(email).recipients() == ["x@example.org"]
    assert b"X-Signature" in carried(signed).raw


class Foreign(EmailMessage):
    """Writes its MIME without Django."""

    size = 10

    def message(self, **options: Any) -> Any:
        from email.message import EmailMessage as Mime
        from email.policy import SMTP

        mime = Mime(policy=SMTP)
        mime["Subject"] = "foreign"
        mime.set_content("x\n" * self.size)
        as_bytes = mime.as_bytes
        mime.as_bytes = lambda **_: as_bytes()  # type: ignore[method-assign]  # as 5.2 calls it
        return mime


def test_pins_that_its_own_mime_lacks_are_put_in_front() -> None:
    twin = carried(Foreign("s", "b", "a@example.org", ["b@example.org"]))

    assert twin.raw.startswith(b"Date: Tue, 24 Nov 2026 04:30:00")
    assert twin.message()["Message-ID"] == MESSAGE_ID


def test_a_large_one_goes_into_a_blob() -> None:
    email = Foreign("s", "b", "a@example.org", ["b@example.org"])
    email.size = 100_000

    content = encoded(email)

    assert len(content) < 1000
    assert codec.attachment_ids(content) == [0]
    assert len(carried(email).raw) > 200_000


def test_a_class_that_writes_its_own_mime_is_refused_where_the_mailer_takes_none() -> None:
    with pytest.raises(Uncarriable, match="Signed writes its own MIME, which only an SMTP mailer"):
        codec.check(Signed("s", "b", "a@example.org", ["b@example.org"]), raw=False)


def test_recipients_of_its_own_are_carried() -> None:
    twin = carried(Mailing("To all", "Hello", to=["undisclosed@example.org"]))

    assert not isinstance(twin, codec.RawMessage)
    assert twin.to == ["undisclosed@example.org"]
    assert twin.recipients() == ["list-1@example.org", "list-2@example.org"]


# ------------------------------------------------------------------------------------- attachments


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


# ------------------------------------------------------------------------------------- fingerprints


@pytest.mark.parametrize("build", CORPUS.values(), ids=CORPUS)
def test_the_same_mail_has_the_same_fingerprint_at_every_call(build: Builder) -> None:
    first = encoded(build())
    blobs = MemoryBlobs()
    blobs.put(b"moves the numbers on")
    later = DATE + timedelta(hours=1)

    second = codec.encode(build(), blobs, message_id="<other@example.org>", date=later)

    for sensitive in (False, True):
        assert codec.fingerprint(first, sensitive=sensitive) == codec.fingerprint(
            second, sensitive=sensitive
        )


def variants() -> dict[str, EmailMessage]:
    attached = plain()
    attached.attach("a.pdf", b"%PDF-1", "application/pdf")
    other = plain()
    other.attach("a.pdf", b"%PDF-2", "application/pdf")
    raw = Signed("s", "1", to=["customer@example.com"])
    return {
        "plain": plain(),
        "subject": plain(subject="x"),
        "body": plain(body="x"),
        "attachment": attached,
        "other attachment": other,
        "html": alternatives(("<p>", "text/html")),
        "to": plain(to=["x@example.org"]),
        "bcc": plain(bcc=["x@example.org"]),
        "header": plain(headers={"X-A": "x"}),
        "raw": raw,
        "raw body": Signed("s", "2", to=["customer@example.com"]),
    }


def test_another_mail_has_another_fingerprint() -> None:
    found = {codec.fingerprint(encoded(one), sensitive=False) for one in variants().values()}

    assert len(found) == len(variants())
    assert {len(one) for one in found} == {64}


def test_the_fingerprint_of_a_sensitive_mail_does_not_reveal_a_code() -> None:
    found = {
        name: codec.fingerprint(encoded(one), sensitive=True) for name, one in variants().items()
    }

    assert found["plain"] == found["subject"] == found["body"] == found["attachment"]
    assert found["raw"] == found["raw body"]
    assert len({found["plain"], found["to"], found["bcc"], found["header"]}) == 4
