"""What the loop writes to a server is what smtplib would write, to the octet."""

from __future__ import annotations

import smtplib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox import addresses
from pillarbox.delivery.conversation import Envelope
from pillarbox.delivery.senders.base import Parcel
from pillarbox.delivery.senders.letters import _commands, _plain_commands, compose
from pillarbox.models import Message

PLAIN = st.from_regex(addresses.ADDR_SPEC, fullmatch=True)
ODD = st.one_of(
    st.sampled_from(
        ["", "<>", "a b@example.org", "é@example.org", "=?q?@example.org", '"a b"@c.d']
    ),
    st.text(max_size=20),
)
ALL_OPTIONS = ["size=123", "body=8BITMIME", "SMTPUTF8", "ret=HDRS"]
OPTIONS = st.lists(st.sampled_from(ALL_OPTIONS), max_size=2)


def server() -> smtplib.SMTP:
    smtp = smtplib.SMTP()
    smtp.does_esmtp = True
    smtp.esmtp_features = {"size": "", "8bitmime": "", "smtputf8": ""}
    return smtp


def envelope(sender: str, wires: list[str], rcpt_options: tuple[str, ...] = ()) -> Envelope:
    pairs = tuple((wire, wire) for wire in wires)
    return Envelope(sender=sender, addresses=pairs, content=b"x\r\n", rcpt_options=rcpt_options)


def same(commands: list[bytes], others: list[bytes]) -> bool:
    """Whether they differ at most in the verbs' case, which is Python's version's."""
    split = [[command.partition(b":<") for command in each] for each in (commands, others)]
    lowered = [[(verb.lower(), rest) for verb, _, rest in each] for each in split]
    return lowered[0] == lowered[1]


@given(PLAIN, st.lists(PLAIN, min_size=1, max_size=3), st.sampled_from(ALL_OPTIONS[:2]))
def test_plain_commands_are_smtplibs(sender: str, wires: list[str], option: str) -> None:
    given_to_both = envelope(sender, wires), [option], wires
    plain = _plain_commands(*given_to_both)
    assert plain is not None
    assert same(plain, _commands(server(), *given_to_both))


@given(st.one_of(PLAIN, ODD), st.lists(st.one_of(PLAIN, ODD), min_size=1, max_size=2), OPTIONS)
def test_what_is_not_plain_is_left_to_smtplib(
    sender: str, wires: list[str], options: list[str]
) -> None:
    given_to_both = envelope(sender, wires), options, wires
    plain = _plain_commands(*given_to_both)
    if plain is not None:
        assert same(plain, _commands(server(), *given_to_both))


def test_an_option_for_the_recipient_is_written() -> None:
    asked = envelope("a@example.org", ["b@example.org"], ("NOTIFY=NEVER",))
    letter = compose(server(), Parcel(message=Message(), mailer="default"), asked)
    ((_, command),) = letter.rcpts
    assert command.endswith(b":<b@example.org> NOTIFY=NEVER\r\n")


def test_an_address_that_smtplib_refuses_is_refused() -> None:
    asked = envelope("a@example.org", ["bé@example.org"])
    with pytest.raises(UnicodeEncodeError):
        compose(server(), Parcel(message=Message(), mailer="default"), asked)
