"""A real server receives the same, whether a message is sent directly or through the codec."""

from __future__ import annotations

import os
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

EXAMPLES = int(os.environ.get("PILLARBOX_FIDELITY_EXAMPLES", "150"))


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


# What hypothesis combines: mostly good, with everything that people and attackers have tried.
any_text = st.text(st.characters(exclude_categories=()), max_size=60)
lines = st.one_of(
    st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), max_size=120),
    st.sampled_from(["", "Order 42", "a\nBcc: b@example.org", "=?utf-8?q?caf=C3=A9?=", "$dict"]),
    any_text,
)
names = st.text(st.characters(categories=["L", "N", "P", "Zs"]), max_size=30)
bare_addresses = st.builds(
    "{}@{}".format,
    st.from_regex(r"[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]{1,12}(\.[a-z0-9]{1,5})?", fullmatch=True),
    st.sampled_from(["example.org", "bücher.example", "localhost", "a-b.example", "例え.jp"]),
)
addresses = st.one_of(
    bare_addresses,
    st.builds("{} <{}>".format, names, bare_addresses),
    st.builds('"{}" <{}>'.format, names, bare_addresses),
    st.sampled_from(["", "root", "a@b@example.org", "a b@example.org", "<>", "почта@example.org"]),
)
header_names = st.sampled_from(
    "X-A x-b List-Id References From To Cc Reply-To Sender Date Message-ID message-id Subject "
    "Precedence $tuple".split()
)
mimetypes = st.sampled_from(
    "text/plain text/html text/calendar text/csv application/pdf image/png audio/x-a "
    "application/octet-stream message/rfc822".split()
)
bodies = st.one_of(lines, st.text(max_size=2000))
attachments = st.tuples(
    st.one_of(st.none(), st.just("same.txt"), lines),
    st.one_of(st.binary(max_size=300), bodies),
    mimetypes,
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
        "headers": st.dictionaries(header_names, st.one_of(lines, addresses), max_size=3),
        "attachments": st.lists(attachments, max_size=2),
    }
)
options = st.fixed_dictionaries(
    {},
    optional={
        "content_subtype": st.sampled_from(["html", "markdown", "x y"]),
        "encoding": st.sampled_from(["iso-8859-1", "utf-8", "utf-16", "koi8-r", "us-ascii"]),
        "alternatives": st.lists(st.tuples(bodies, mimetypes), max_size=2),
    },
)


def build(fields: dict[str, Any], extra: dict[str, Any]) -> EmailMessage:
    """Make a message of what was drawn; each call makes a fresh one."""
    email = EmailMultiAlternatives(**{**fields, "headers": dict(fields["headers"])})
    email.attachments = [EmailAttachment(*item) for item in fields["attachments"]]
    for name, value in extra.items():
        setattr(email, name, value)
    email.alternatives = [EmailAlternative(*item) for item in extra.get("alternatives", ())]
    return email


def result(send: Any, email: EmailMessage, sink: Sink) -> Any:
    """Return what arrived, or that nothing did."""
    try:
        return send(email, sink)
    except Exception:  # noqa: BLE001 - refused, by whomever
        return "refused"


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields=messages, extra=options)
def test_any_message_arrives_as_if_sent_directly_or_is_refused_by_both(
    fields: dict[str, Any], extra: dict[str, Any], sink: Sink
) -> None:
    directly = result(send_directly, build(fields, extra), sink)

    assert result(send_through_the_queue, build(fields, extra), sink) == directly


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields=messages, extra=options)
def test_what_the_check_lets_through_can_be_rendered_and_addressed(
    fields: dict[str, Any], extra: dict[str, Any], sink: Sink
) -> None:
    email = build(fields, extra)
    try:
        codec.check(email)
    except Exception:  # noqa: BLE001 - the other test compares refusals
        return
    send_directly(email, sink)
