"""The commands of an envelope are smtplib's, octet by octet, whoever writes them."""

from __future__ import annotations

import smtplib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.addresses import ADDR_SPEC
from pillarbox.delivery.conversation import Envelope
from pillarbox.delivery.senders.base import Parcel
from pillarbox.delivery.senders.letters import compose
from pillarbox.models import Message

PLAIN = st.from_regex(ADDR_SPEC, fullmatch=True)
ODD = st.sampled_from(
    [
        "",
        "<a@b>",
        "<>",
        '"john doe"@example.org',
        "John <john@example.org>",
        "a=b@example.org",
        "john@[127.0.0.1]",
        "john@example.org\n",
        "john@example.org\r\nDATA",
        "a@b>\r\n",
        "jürgen@example.org",
        "john@exämple.org",
        "john@example.org (a comment)",
        "john@example_org",
        "john..doe@example.org",
        "john@-example.org",
        "a@b,c@d",
    ]
)
MAILBOXES = PLAIN | ODD | st.text(max_size=12)
MAIL_OPTIONS = st.sampled_from(
    [(), ("body=8BITMIME",), ("SMTPUTF8",), ("SMTPUTF8", "body=8BITMIME"), ("a\nb",)]
)
RCPT_OPTIONS = st.sampled_from([(), ("NOTIFY=NEVER",), ("a\rb",)])
FEATURES = st.sampled_from(
    [{}, {"size": ""}, {"size": "100", "8bitmime": "", "smtputf8": ""}, {"pipelining": ""}]
)


class Listening(smtplib.SMTP):
    """smtplib's own conversation, and every octet of it."""

    def __init__(self, features: dict[str, str], *, does_esmtp: bool) -> None:
        super().__init__()
        self.does_esmtp = does_esmtp
        self.esmtp_features = features
        self.ehlo_resp = b"x"  # EHLO has been said
        self.octets: list[bytes] = []

    def send(self, s: Any) -> None:
        self.octets.append(s if isinstance(s, bytes) else s.encode(self.command_encoding))

    def getreply(self) -> tuple[int, bytes]:
        return (354 if self.octets[-1] == b"data\r\n" else 250), b"Ok"


@given(
    MAILBOXES, st.lists(MAILBOXES, min_size=1), MAIL_OPTIONS, RCPT_OPTIONS, FEATURES, st.booleans()
)
def test_commands_and_body_are_smtplib_s(
    sender: str,
    recipients: list[str],
    mail_options: tuple[str, ...],
    rcpt_options: tuple[str, ...],
    features: dict[str, str],
    does_esmtp: bool,
) -> None:
    smtp = Listening(features, does_esmtp=does_esmtp)
    content = b".a\r\n..b\r\n"
    pairs = tuple((one, one) for one in recipients)
    envelope = Envelope(sender, pairs, content, mail_options, rcpt_options)
    parcel = Parcel(Message(), "smtp")
    try:
        smtp.sendmail(sender, recipients, content, mail_options, rcpt_options)
    except (ValueError, smtplib.SMTPNotSupportedError) as error:
        with pytest.raises(type(error)):
            compose(smtp, parcel, envelope)
        return
    mail, *rcpts, data, body = smtp.octets
    letter = compose(smtp, parcel, envelope)
    assert letter.mail == mail
    assert [command for _, command in letter.rcpts] == rcpts
    assert (data, letter.body) == (b"data\r\n", body)


@given(PLAIN, st.lists(PLAIN, min_size=1))
def test_a_plain_envelope_needs_no_parser(sender: str, recipients: list[str]) -> None:
    envelope = Envelope(sender, tuple((one, one) for one in recipients), b"a\r\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(smtplib, "quoteaddr", None)
        compose(Listening({"size": ""}, does_esmtp=True), Parcel(Message(), "smtp"), envelope)
