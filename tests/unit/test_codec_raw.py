"""Classes that write their own MIME or their own envelope."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.mail import EmailMessage

from pillarbox import codec
from pillarbox.exceptions import Uncarriable
from tests.corpus.builders import plain
from tests.corpus.messages import Mailing, Signed
from tests.support.delivered import MESSAGE_ID, carried, encoded


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
