"""Whatever the composer writes says what Django's own rendering says."""

from __future__ import annotations

import os
import re
from email import policy
from typing import Any

import pytest
from django.core.mail import EmailMessage
from django.utils.encoding import punycode
from hypothesis import HealthCheck, given, settings

from pillarbox.codec.shapes import render
from pillarbox.mime import compose
from tests.corpus.messages import CORPUS, Builder
from tests.integration.test_fidelity import build, messages
from tests.support.delivered import carried
from tests.support.rendered import faults_of_lines, meaning

EXAMPLES = int(os.environ.get("PILLARBOX_COMPOSER_EXAMPLES", "150"))
drawn = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))


def compare(email: EmailMessage, *, eight_bit: bool) -> bool:
    """Compare the two renderings; return whether there were two."""
    composed = compose(email, eight_bit=eight_bit)
    if composed is None:
        return False
    ours, theirs = meaning(composed), meaning(render(email))
    # Python's parser puts a blank between two encoded words of a name, or of an old Django's
    # subject: where Django's rendering falls to that, what counts is what the caller gave.
    for name, value in {*ours["headers"]} - {*theirs["headers"]}:
        assert value == intended(email, name)
    assert {**ours, "headers": None} == {**theirs, "headers": None}
    assert [name for name, _ in ours["headers"]] == [name for name, _ in theirs["headers"]]
    assert b"\r\nMIME-Version: 1.0\r\n" in composed
    assert faults_of_lines(composed) == []
    assert eight_bit or composed.isascii()
    return True


def intended(email: EmailMessage, name: str) -> str:
    """Return a field of the caller's as ``policy.default`` reads it unfolded."""
    fields = {
        "subject": email.subject,
        "from": email.from_email,
        "to": ", ".join(email.to),
        "cc": ", ".join(email.cc),
        "reply-to": ", ".join(email.reply_to),
        **{own.lower(): value for own, value in email.extra_headers.items()},
    }
    value = fields[name]
    if name in {"from", "to", "cc", "reply-to"}:
        value = re.sub(r"(?<=@)[^\s<>,]+", lambda found: punycode(found[0]), value)
    return str(policy.default.header_factory(name, value))


@pytest.mark.parametrize("eight_bit", [True, False], ids=["8bit", "7bit"])
@pytest.mark.parametrize("make", CORPUS.values(), ids=CORPUS)
def test_a_message_of_the_corpus_says_the_same(make: Builder, eight_bit: bool) -> None:
    compare(carried(make()), eight_bit=eight_bit)


@pytest.mark.timeout(600)  # Python's own rendering takes milliseconds, and a slow machine's tens
@drawn
@given(fields=messages)
def test_any_message_says_the_same(fields: dict[str, Any]) -> None:
    try:
        email = carried(build(fields))
        render(email)
    except Exception:  # noqa: BLE001 - Django refuses it, so nobody queues it
        return
    for eight_bit in (True, False):
        compare(email, eight_bit=eight_bit)
