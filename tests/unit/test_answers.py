"""Octets become the replies that smtplib reads, wherever they were split."""

from __future__ import annotations

import smtplib
import socket
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.delivery.outcomes import Reply, replies
from pillarbox.delivery.senders.answers import LINE_MAX_BYTES, REPLY_MAX_BYTES, Answers

LINES = st.builds(
    lambda code, mark, text, end: code + mark + text + end,
    st.sampled_from([b"250", b"354", b"451", b"550", b"421", b"+99", b"abc", b"", b"25", b"-12"]),
    st.sampled_from([b" ", b"-", b""]),
    st.binary(max_size=20).filter(lambda text: b"\n" not in text),
    st.sampled_from([b"\r\n", b"\n"]),
)


def by_smtplib(octets: bytes) -> list[Reply]:
    """Return what smtplib makes of the same octets, up to their end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(octets)
        theirs.close()
        smtp = smtplib.SMTP()
        smtp.sock = ours
        found = []
        while True:
            try:
                found.append(replies.parse(*smtp.getreply()))
            except smtplib.SMTPServerDisconnected:
                return found


def split(octets: bytes, at: list[int]) -> list[bytes]:
    cuts = [0, *sorted(cut % (len(octets) + 1) for cut in at), len(octets)]
    return [octets[start:end] for start, end in pairwise(cuts)]


@given(st.lists(LINES, max_size=8), st.lists(st.integers(0, 10**6), max_size=12))
def test_replies_are_smtplib_s_however_they_arrive(lines: list[bytes], at: list[int]) -> None:
    octets = b"".join(lines)
    answers = Answers()
    found = [reply for piece in split(octets, at) for reply in answers.take(piece)]
    assert found == by_smtplib(octets)


def test_a_reply_of_many_lines_is_one() -> None:
    answers = Answers()
    assert answers.take(b"550-5.1.1 Nobody\r\n550 5.1.1 ") == []
    assert not answers.is_between
    assert answers.take(b"here\r\n") == [Reply(550, "5.1.1", "Nobody\nhere")]
    assert answers.is_between


@pytest.mark.parametrize(
    "octets",
    [b"2" * (LINE_MAX_BYTES + 1), b"250-more\r\n" * (REPLY_MAX_BYTES // 10 + 1)],
    ids=["line", "lines"],
)
def test_what_never_ends_is_cut_short(octets: bytes) -> None:
    (reply,) = Answers().take(octets)
    assert reply == Reply(text="Line too long.")
