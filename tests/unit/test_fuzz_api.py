"""Anything at all in the arguments, and in the rows: refused by name, or carried without loss."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from django.core.mail import EmailAlternative, EmailAttachment, EmailMultiAlternatives
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from pillarbox import codec, send_email
from pillarbox.attachments import MemoryBlobs
from pillarbox.codec.shapes import render
from pillarbox.delivery import parcels
from pillarbox.exceptions import PillarboxError
from pillarbox.models import Attachment, Message
from tests.corpus.messages import CORPUS
from tests.support.delivered import encoded

EXAMPLES = int(os.environ.get("PILLARBOX_FUZZ_EXAMPLES", "150"))
fuzzed = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))

any_text = st.text(st.characters(exclude_categories=()), max_size=40)
nasty = st.sampled_from(
    [
        *("", " ", "\r", "\n", "\r\n.\r\n", "\x00", "\x00.\r\n", "\u2028", "\ufeff", "\ud800"),
        *(
            "=?utf-8?q?=0A?=",
            "=?utf-8?b?AA==?=",
            "a@b.example",
            "<>",
            "<a@b.example>",
            "(",
            "(((a)",
        ),
        *('"', '"\\', "a@[127.0.0.1]", "@", ":;", "a:b@c.example;", "a@b.example,c@d.example"),
        *("text/plain", "text/", "/", "message/rfc822", "multipart/mixed", "image/png; a=b"),
    ]
)
texts = st.one_of(any_text, nasty, st.lists(st.one_of(nasty, any_text), max_size=4).map("".join))
named = st.builds("{} <a@b.example>".format, texts)
mailboxes = st.one_of(texts, named, st.just("ada@example.org"))
lists = st.one_of(st.just(["ada@example.org"]), st.lists(mailboxes, max_size=3))
contents = st.one_of(texts, st.binary(max_size=40), st.none())
files = st.lists(st.tuples(st.one_of(texts, st.none()), contents, st.one_of(texts, st.none())))
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), any_text)
metadata = st.dictionaries(any_text, st.recursive(scalars, st.lists, max_leaves=5), max_size=3)
ARGUMENTS: dict[str, st.SearchStrategy[Any]] = {
    "subject": texts,
    "body": texts,
    "recipient_list": lists,
    "from_email": st.one_of(st.none(), mailboxes),
    "html": st.one_of(st.none(), texts),
    "cc": lists,
    "bcc": lists,
    "reply_to": lists,
    "headers": st.one_of(st.none(), st.dictionaries(texts, texts, max_size=2)),
    "attachments": files,
    "stream": texts,
    "priority": st.one_of(st.just("high"), texts),
    "idempotency_key": st.one_of(st.none(), texts),
    "tags": st.lists(any_text, max_size=2),
    "metadata": st.one_of(st.none(), metadata),
}
GOOD = {"subject": "s", "body": "b", "recipient_list": ["ada@example.org"]}
# One to three arguments at once: with all of them wrong nothing would ever be accepted.
calls = (
    st.lists(st.sampled_from(sorted(ARGUMENTS)), min_size=1, max_size=3, unique=True)
    .flatmap(lambda names: st.fixed_dictionaries({name: ARGUMENTS[name] for name in names}))
    .map(lambda drawn: {**GOOD, **drawn})
)


@fuzzed
@given(arguments=calls)
@example(arguments={**GOOD, "reply_to": ["ada@example.org", ":"]})  # the last is right alone
@pytest.mark.django_db
def test_any_call_is_refused_by_name_or_can_be_sent(arguments: dict[str, Any]) -> None:
    Message.objects.all().delete()
    Attachment.objects.all().delete()
    try:
        message = send_email(**arguments)
    except (PillarboxError, ValueError) as refused:
        event(f"refused: {type(refused).__name__}")
        assert not Message.objects.exists()
        assert not Attachment.objects.exists()
        return
    event("accepted")
    message.refresh_from_db()
    parcel = parcels.address(message)
    assert parcels.fill([parcel], "default") == {}
    assert parcel.email is not None
    assert parcel.envelope
    assert render(parcel.email)
    again = codec.encode(
        parcel.email, MemoryBlobs(), message_id=message.message_id, date=message.date
    )
    assert without_pins(again) == without_pins(message.content)


def without_pins(content: str) -> str:
    """Return the fingerprint of content whose Date and Message-ID may stand among the headers."""
    node = json.loads(content)
    headers = dict(node.pop("headers", {}).items()) if isinstance(node.get("headers"), dict) else {}
    for name in ("Date", "Message-ID"):
        headers.pop(name, None)
    return codec.fingerprint(json.dumps({**node, "headers": headers}), sensitive=False)


emails = st.fixed_dictionaries(
    {
        "subject": texts,
        "body": texts,
        "from_email": mailboxes,
        "to": lists,
        "bcc": lists,
        "reply_to": lists,
        "extra_headers": st.dictionaries(texts, texts, max_size=2),
        "content_subtype": st.one_of(st.just("plain"), texts),
        "encoding": st.sampled_from([None, None, "utf-8", "utf-16", "ascii", "no-such", ""]),
        "attachments": files,
        "alternatives": st.lists(st.tuples(contents, texts), max_size=2),
        "tags": st.one_of(st.lists(any_text), metadata, st.dates(), st.decimals(), st.uuids()),
    }
).flatmap(
    lambda drawn: st.sets(st.sampled_from(sorted(drawn)), max_size=3).map(
        lambda names: {name: drawn[name] for name in names}
    )
)


@fuzzed
@given(fields=emails)
def test_any_message_that_passes_the_check_is_carried_and_rendered(fields: dict[str, Any]) -> None:
    email = EmailMultiAlternatives("s", "b", "shop@example.org", ["ada@example.org"])
    for name, value in fields.items():
        setattr(email, name, value)
    email.attachments = [EmailAttachment(*item) for item in fields.get("attachments", ())]
    email.alternatives = [EmailAlternative(*item) for item in fields.get("alternatives", ())]
    try:
        codec.check(email)
    except Exception:  # noqa: BLE001 - whatever Django raises; it is the call that is told
        event("refused")
        return
    event("accepted")
    blobs = MemoryBlobs()
    twin = codec.decode(encoded(email, blobs), blobs)
    assert twin.recipients() == email.recipients()
    assert render(twin)
    assert without_pins(encoded(twin)) == without_pins(encoded(email))


# ------------------------------------------------------------------------------- garbage rows

CONTENTS = {name: encoded(build()) for name, build in CORPUS.items()}
json_values = st.recursive(
    st.one_of(scalars, st.sampled_from(["$blob", "$tuple", "$datetime", "text/plain"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(any_text, st.sampled_from(["$blob", "$part", "$email", "$tuple", "$header"])),
            inner,
            max_size=2,
        ),
    ),
    max_leaves=8,
)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """Content that was written once, with a piece cut out, put in or exchanged."""
    content = CONTENTS[draw(st.sampled_from(sorted(CONTENTS)))]
    start = draw(st.integers(0, len(content)))
    end = draw(st.integers(start, min(len(content), start + 30)))
    pieces = st.sampled_from(["null", "0", "[]", "{}", '"', "}", "-1e999"])
    piece = draw(st.one_of(any_text, pieces))
    return content[:start] + piece + content[end:]


@st.composite
def revalued(draw: st.DrawFn) -> str:
    """Content in which a key has a value of another kind."""
    node = json.loads(CONTENTS[draw(st.sampled_from(sorted(CONTENTS)))])
    del node["v"]
    name = draw(st.sampled_from([*sorted(node), "raw", "recipients", "attributes", "class"]))
    node[name] = draw(json_values)
    return '{"v":1,' + json.dumps(node)[1:]


@settings(fuzzed, max_examples=3 * EXAMPLES)
@given(content=st.one_of(any_text, mutated(), revalued()))
def test_content_of_any_kind_is_read_or_refused_as_documented(content: str) -> None:
    blobs = MemoryBlobs()
    blobs.put(b"the only one")
    try:
        email = codec.decode(content, blobs)
    except PillarboxError:
        event("refused")
    else:
        event("read")
        assert hasattr(email, "subject")


@pytest.mark.django_db
def test_a_row_with_garbage_fails_alone_and_is_logged() -> None:
    good, bad = send_email("s", "b", GOOD["recipient_list"]), send_email(**GOOD)  # type: ignore[arg-type]
    Message.objects.filter(pk=bad.pk).update(content='{"v":1,"to":[{"$tuple":3}]}')
    bad.refresh_from_db()
    unreadable = parcels.fill([parcels.address(good), parcels.address(bad)], "default")
    assert [str(why)[:27] for why in unreadable.values()] == ["The content cannot be read:"]
