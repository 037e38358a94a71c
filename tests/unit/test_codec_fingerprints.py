"""Whether two calls meant the same mail."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.core.mail import EmailMessage

from pillarbox import codec
from pillarbox.attachments import MemoryBlobs
from tests.corpus.builders import CORPUS, Builder, alternatives, plain
from tests.corpus.messages import Signed
from tests.support.delivered import DATE, encoded


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
