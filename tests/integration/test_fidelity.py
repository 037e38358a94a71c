"""A real server receives the same, whether a message is sent directly or through the codec."""

from __future__ import annotations

import copy
import os
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.mail import (
    EmailAlternative,
    EmailAttachment,
    EmailMessage,
    EmailMultiAlternatives,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pillarbox import codec
from tests.corpus.messages import CORPUS, Builder
from tests.corpus.refused import REFUSED
from tests.support.delivered import send_directly, send_through_the_queue
from tests.support.smtp_sink import Sink, smtp_sink

EXAMPLES = int(os.environ.get("PILLARBOX_FIDELITY_EXAMPLES", "60"))


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    with smtp_sink() as server:
        yield server


@pytest.mark.parametrize("build", CORPUS.values(), ids=CORPUS)
def test_a_message_of_the_corpus_arrives_as_if_sent_directly(build: Builder, sink: Sink) -> None:
    assert send_through_the_queue(build(), sink) == send_directly(build(), sink)


@pytest.mark.parametrize("build", REFUSED.values(), ids=REFUSED)
def test_what_a_direct_send_refuses_is_refused_at_the_call(build: Builder, sink: Sink) -> None:
    with pytest.raises(Exception) as direct:  # noqa: PT011 - whatever Django raises
        send_directly(build(), sink)

    with pytest.raises(type(direct.value)):
        codec.check(build())


# What hypothesis combines: good messages of every kind, some with one thing wrong.
lines = st.one_of(
    st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), max_size=120),
    st.sampled_from(["", "Order 42", "=?utf-8?q?caf=C3=A9?=", "$dict", "ü" * 200]),
)
words = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=12)
names = st.lists(words, min_size=1, max_size=3).map(" ".join)
bare_addresses = st.builds(
    "{}@{}".format,
    st.from_regex(r"[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]{1,12}(\.[a-z0-9]{1,5})?", fullmatch=True),
    st.sampled_from(["example.org", "bücher.example", "localhost", "a-b.example", "例え.jp"]),
)
addresses = st.one_of(
    bare_addresses,
    st.builds("{} <{}>".format, names, bare_addresses),
    st.builds('"{}, {}." <{}>'.format, names, names, bare_addresses),
)
headers = st.one_of(
    st.tuples(st.sampled_from(["X-A", "x-b", "List-Id", "Precedence", "$tuple"]), lines),
    st.tuples(st.sampled_from(["From", "To", "Cc", "Reply-To", "Sender"]), addresses),
    st.tuples(st.sampled_from(["Message-ID", "message-id"]), st.just("<own@example.org>")),
)
text_types = st.sampled_from(["text/plain", "text/html", "text/calendar", "text/csv"])
binary_types = st.sampled_from(["application/pdf", "image/png", "application/octet-stream"])
bodies = st.one_of(lines, st.text(max_size=400))
attachments = st.tuples(st.one_of(st.none(), st.just("same.txt"), lines)).flatmap(
    lambda name: st.one_of(
        st.tuples(st.just(name[0]), bodies, text_types),
        st.tuples(st.just(name[0]), st.binary(max_size=300), binary_types),
    )
)
alternatives = st.one_of(
    st.tuples(bodies, text_types), st.tuples(st.binary(max_size=300), binary_types)
)
messages = st.fixed_dictionaries(
    {
        "subject": lines,
        "body": bodies,
        "from_email": addresses,
        "to": st.lists(addresses, min_size=1, max_size=3),
        "cc": st.lists(addresses, max_size=2),
        "bcc": st.lists(addresses, max_size=2),
        "reply_to": st.lists(addresses, max_size=2),
        "extra_headers": st.lists(headers, max_size=3).map(dict),
        "attachments": st.lists(attachments, max_size=2),
        "alternatives": st.lists(alternatives, max_size=2),
        "content_subtype": st.sampled_from(["plain", "html", "markdown"]),
        "encoding": st.sampled_from([None, None, "utf-8", "utf-16"]),
    }
)
any_text = st.text(st.characters(exclude_categories=()), max_size=60)
bad_addresses = st.one_of(
    any_text,
    st.sampled_from(["", "root", "a@b@c.org", "a b@c.org", "<>", "почта@c.org", "a\n@c.org", "a@"]),
)
flaws = st.one_of(
    *[st.fixed_dictionaries({name: any_text}) for name in ("subject", "body", "content_subtype")],
    *[st.fixed_dictionaries({name: st.lists(bad_addresses)}) for name in ("to", "cc", "reply_to")],
    st.fixed_dictionaries({"from_email": bad_addresses}),
    st.fixed_dictionaries({"encoding": st.sampled_from(["iso-8859-1", "koi8-r", "ascii", "no"])}),
    st.fixed_dictionaries({"extra_headers": st.dictionaries(any_text, any_text, max_size=2)}),
    st.fixed_dictionaries({"attachments": st.lists(st.tuples(any_text, any_text, any_text))}),
)
messages_with_flaws = st.builds(lambda good, bad: {**good, **bad}, messages, flaws)


def build(fields: dict[str, Any]) -> EmailMessage:
    """Make a message of what was drawn; each call makes a fresh one."""
    email = EmailMultiAlternatives()
    for name, value in fields.items():
        setattr(email, name, copy.copy(value))
    email.attachments = [EmailAttachment(*item) for item in fields["attachments"]]
    email.alternatives = [EmailAlternative(*item) for item in fields["alternatives"]]
    return email


def result(send: Any, email: EmailMessage, sink: Sink) -> Any:
    """Return what arrived, or that nothing did."""
    try:
        return send(email, sink)
    except AssertionError:
        raise
    except Exception:  # noqa: BLE001 - refused, by whomever
        return "refused"


def texts(value: Any) -> list[str]:
    """Return every string in what was drawn."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        return [text for item in value for text in texts(item)]
    return [value] if isinstance(value, str) else []


def addresses_of(fields: dict[str, Any]) -> list[str]:
    return [fields["from_email"], *fields["to"], *fields["cc"], *fields["bcc"], *fields["reply_to"]]


def headers_of(fields: dict[str, Any]) -> list[str]:
    named = [text for name, _, kind in fields["attachments"] for text in (name, kind)]
    named += [kind for _, kind in fields["alternatives"]]
    return texts([fields["subject"], fields["extra_headers"], fields["content_subtype"], named])


# Why a message that Django sends may be refused by us; nothing else may.
REASONS = {
    "a control character in an address": lambda fields: any(
        unicodedata.category(character) == "Cc" and character != "\t"
        for character in "".join(addresses_of(fields))
    ),
    "an address over 320 characters": lambda fields: any(
        len(address) > 320 for address in addresses_of(fields)
    ),
    "a line break or NUL in a header": lambda fields: any(
        set("\r\n\x00") & set(text) for text in headers_of(fields)
    ),
    "a dot among NULs in a line": lambda fields: any(
        re.search(r"\x00\.|\.\x00", text) for text in texts(fields)
    ),
    "an address of the envelope with a local part that is not ASCII": lambda fields: any(
        not address.rpartition("@")[0].rpartition("<")[2].isascii()
        for address in addresses_of(fields)
    ),
}


def is_as_direct(fields: dict[str, Any], sink: Sink) -> None:
    """Assert that the queue does as a direct send, or refuses for one of the listed reasons."""
    directly = result(send_directly, build(fields), sink)
    queued = result(send_through_the_queue, build(fields), sink)

    if queued == "refused" and directly != "refused":
        reasons = [name for name, holds in REASONS.items() if holds(fields)]
        assert reasons, f"refused for no listed reason, though Django sends it: {directly}"
    else:
        assert queued == directly


drawn = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))


@drawn
@given(fields=messages)
def test_any_message_arrives_as_if_sent_directly(fields: dict[str, Any], sink: Sink) -> None:
    is_as_direct(fields, sink)


@drawn
@given(fields=messages_with_flaws)
def test_what_is_refused_directly_is_refused_at_the_call_and_nothing_else_without_a_reason(
    fields: dict[str, Any], sink: Sink
) -> None:
    is_as_direct(fields, sink)
