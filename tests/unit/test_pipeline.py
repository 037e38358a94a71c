"""The order of things on one connection, octet by octet; RFC 2920 3.1's cases among them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.delivery.outcomes import (
    Fail,
    InDoubt,
    MailerDown,
    Outcome,
    PartlySent,
    Reply,
    Retry,
    Sent,
    Stage,
)
from pillarbox.delivery.senders.answers import Ask
from pillarbox.delivery.senders.base import Parcel
from pillarbox.delivery.senders.events import Ended, Event, Named, Returned
from pillarbox.delivery.senders.letters import Letter
from pillarbox.delivery.senders.pipeline import (
    BLOCK_BYTES,
    GROUP_MAX,
    Pipeline,
)
from pillarbox.models import Message

GONE = Reply(text="ConnectionResetError: gone")
OK = "250 2.0.0 ok"
GO = "354 go on"


def letter(name: str = "a", recipients: int = 1, body: bytes = b"") -> Letter:
    rcpts = [(f"{name}{n}", f"RCPT {name}{n}\r\n".encode()) for n in range(recipients)]
    content = body or f"body {name}\r\n.\r\n".encode()
    return Letter(Parcel(Message(), "smtp"), f"MAIL {name}\r\n".encode(), rcpts, content)


def written(pipeline: Pipeline) -> str:
    """Take what is to be written, as the socket would."""
    found = b""
    while pipeline.has_output:
        block = bytes(pipeline.block())
        pipeline.wrote(len(block))
        found += block
    return found.decode().replace("\r\n", "|")


def say(pipeline: Pipeline, *answers: str) -> list[Event]:
    return pipeline.receive("".join(f"{answer}\r\n" for answer in answers).encode())


def outcome(events: list[Event]) -> Outcome:
    (event,) = events
    assert isinstance(event, Ended)
    return event.outcome


def named(pipeline: Pipeline, one: Letter) -> Letter:
    """Bring a letter to its 354."""
    pipeline.name(one)
    written(pipeline)
    assert say(pipeline, OK, *[OK] * len(one.rcpts), GO) == [Named(one)]
    return one


def sent(pipeline: Pipeline, one: Letter) -> Letter:
    """Write a letter to its dot."""
    named(pipeline, one)
    assert pipeline.write(one) == []
    written(pipeline)
    return one


@pytest.fixture
def pipeline() -> Pipeline:
    return Pipeline(pipelining=True)


# --------------------------------------------------------------------------- the ordinary way


def test_the_next_envelope_leaves_behind_the_body_in_one_block(pipeline: Pipeline) -> None:
    first, second = letter("a"), letter("b", 2)
    pipeline.name(first)
    assert written(pipeline) == "MAIL a|RCPT a0|DATA|"
    assert not pipeline.can_name
    assert say(pipeline, OK, OK, GO) == [Named(first)]
    assert not pipeline.can_name, "what follows DATA is the message"
    pipeline.write(first)
    pipeline.name(second)
    assert bytes(pipeline.block()) == (b"body a\r\n.\r\nMAIL b\r\nRCPT b0\r\nRCPT b1\r\nDATA\r\n")
    written(pipeline)
    ended, asks = say(pipeline, OK, OK, OK, OK, GO)
    assert isinstance(ended, Ended)
    assert (ended.letter, type(ended.outcome)) == (first, Sent)
    assert asks == Named(second)
    assert pipeline.writing is None


def test_without_pipelining_every_command_waits() -> None:
    pipeline = Pipeline(pipelining=False)
    one = letter("a", 2)
    pipeline.name(one)
    for command in ("MAIL a|", "RCPT a0|", "RCPT a1|"):
        assert written(pipeline) == command
        assert say(pipeline, OK) == []
    assert written(pipeline) == "DATA|"
    assert say(pipeline, GO) == [Named(one)]
    pipeline.write(one)
    assert written(pipeline) == "body a|.|"
    assert isinstance(outcome(say(pipeline, OK)), Sent)
    assert pipeline.is_idle
    pipeline.name(letter("b"))
    assert written(pipeline) == "MAIL b|"


def test_recipients_go_in_groups_whose_replies_are_read_in_between(pipeline: Pipeline) -> None:
    one = letter("a", GROUP_MAX + 1)
    pipeline.name(one)
    assert written(pipeline).count("|") == 1 + GROUP_MAX
    assert say(pipeline, OK, *[OK] * GROUP_MAX) == []
    assert written(pipeline) == f"RCPT a{GROUP_MAX}|DATA|"
    assert say(pipeline, OK, GO) == [Named(one)]


def test_after_a_452_nobody_else_is_asked_and_the_rest_is_put_off(pipeline: Pipeline) -> None:
    one = letter("a", GROUP_MAX + 50)
    pipeline.name(one)
    written(pipeline)
    say(pipeline, OK, *[OK] * (GROUP_MAX - 1), "452 4.5.3 Too many")
    assert written(pipeline) == "DATA|"
    assert say(pipeline, GO) == [Named(one)]
    pipeline.write(one)
    written(pipeline)
    result = outcome(say(pipeline, OK))
    assert isinstance(result, PartlySent)
    assert len(result.put_off) == 51
    assert result.put_off == result.recipients.keys()


def test_a_452_before_one_who_is_accepted_spoke_of_a_mailbox(pipeline: Pipeline) -> None:
    one = letter("a", 3)
    pipeline.name(one)
    written(pipeline)
    say(pipeline, OK, OK, "452 full", OK, GO)
    pipeline.write(one)
    written(pipeline)
    result = outcome(say(pipeline, OK))
    assert isinstance(result, PartlySent)
    assert (set(result.recipients), result.put_off) == ({"a1"}, frozenset())


# ----------------------------------------------------------------------- RFC 2920, section 3.1


def test_a_354_though_all_were_refused_is_ended_with_a_lone_dot(pipeline: Pipeline) -> None:
    pipeline.name(letter("a", 2))
    written(pipeline)
    result = outcome(say(pipeline, OK, "550 5.1.1 no", "550 5.1.1 no", GO))
    assert (type(result), result.stage) == (Fail, Stage.RCPT)
    pipeline.name(letter("b"))
    assert written(pipeline) == ".|MAIL b|RCPT b0|DATA|"
    (asks,) = say(pipeline, "554 5.5.1 no valid recipients", OK, OK, GO)
    assert isinstance(asks, Named)


def test_a_354_after_some_were_refused_is_followed_by_the_body(pipeline: Pipeline) -> None:
    one = letter("a", 2)
    pipeline.name(one)
    written(pipeline)
    assert say(pipeline, OK, "550 5.1.1 no", OK, GO) == [Named(one)]
    pipeline.write(one)
    assert written(pipeline) == "body a|.|"
    result = outcome(say(pipeline, OK))
    assert isinstance(result, PartlySent)
    assert result.recipients == {"a0": Reply(550, "5.1.1", "no")}


@pytest.mark.parametrize(
    ("answers", "kind", "stage"),
    [
        (["451 4.3.0 later", "503 5.5.1 MAIL?", "503 5.5.1 RCPT?"], Retry, Stage.MAIL),
        (["550 5.7.1 no", "503 5.5.1 MAIL?", "503 5.5.1 RCPT?"], Fail, Stage.MAIL),
        ([OK, "451 4.3.0 later", "503 5.5.1 RCPT?"], Retry, Stage.RCPT),
        ([OK, "550 5.1.1 no", "554 5.5.1 no valid recipients"], Fail, Stage.RCPT),
        ([OK, OK, "451 4.3.0 later"], Retry, Stage.DATA),
        ([OK, OK, "554 5.7.0 no"], Fail, Stage.DATA),
    ],
)
def test_a_refused_envelope_is_reset_and_the_next_one_goes(
    pipeline: Pipeline, answers: list[str], kind: type[Outcome], stage: Stage
) -> None:
    pipeline.name(letter("a"))
    written(pipeline)
    result = outcome(say(pipeline, *answers))
    assert (type(result), result.stage) == (kind, stage)
    pipeline.name(letter("b"))
    assert written(pipeline) == "RSET|MAIL b|RCPT b0|DATA|"
    (asks,) = say(pipeline, OK, OK, OK, GO)
    assert isinstance(asks, Named)


def test_a_refused_body_leaves_the_envelope_behind_it_as_it_is(pipeline: Pipeline) -> None:
    sent(pipeline, letter("a"))
    behind = letter("b")
    pipeline.name(behind)
    written(pipeline)
    ended, asks = say(pipeline, "554 5.6.0 no", OK, OK, GO)
    assert isinstance(ended, Ended)
    assert (type(ended.outcome), ended.outcome.stage) == (Fail, Stage.DOT)
    assert asks == Named(behind)
    assert written(pipeline) == ""  # no RSET: it would undo the envelope


def test_a_server_that_closes_with_an_envelope_in_flight_harms_it_not(pipeline: Pipeline) -> None:
    first = sent(pipeline, letter("a"))
    behind = letter("b")
    pipeline.name(behind)
    written(pipeline)
    ended, returned = pipeline.lose(GONE, has_hung_up=True)
    assert isinstance(ended, Ended)
    assert (ended.letter, type(ended.outcome), ended.outcome.stage) == (first, InDoubt, Stage.DOT)
    assert returned == Returned(behind)
    assert pipeline.is_over


def test_nor_does_one_that_closes_between_the_dot_s_reply_and_its_own(pipeline: Pipeline) -> None:
    sent(pipeline, letter("a"))
    behind = letter("b")
    pipeline.name(behind)
    written(pipeline)
    assert isinstance(outcome(say(pipeline, OK)), Sent)
    assert pipeline.lose(GONE, has_hung_up=True) == [Returned(behind)]


def test_a_421_to_the_dot_ends_the_connection_and_returns_the_next(pipeline: Pipeline) -> None:
    sent(pipeline, letter("a"))
    behind = letter("b")
    pipeline.name(behind)
    written(pipeline)
    ended, returned = say(pipeline, "421 4.3.2 bye")
    assert isinstance(ended, Ended)
    assert isinstance(ended.outcome, Retry)
    assert returned == Returned(behind)
    assert say(pipeline, OK, OK, GO) == []


def test_a_354_for_what_must_not_be_sent_ends_the_connection_without_a_dot(
    pipeline: Pipeline,
) -> None:
    pipeline.abandon(named(pipeline, letter()))
    assert pipeline.is_over
    assert written(pipeline) == ""


def test_a_354_after_a_refused_mail_with_an_accepted_recipient_does_so_too(
    pipeline: Pipeline,
) -> None:
    pipeline.name(letter())
    written(pipeline)
    result = outcome(say(pipeline, "550 5.7.1 no", OK, GO))
    assert (type(result), result.stage) == (Fail, Stage.MAIL)
    assert pipeline.is_over
    assert written(pipeline) == ""


# -------------------------------------------------------------------------- what breaks, where


@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize(
    ("heard", "kind", "stage"),
    [
        ([], MailerDown, Stage.MAIL),
        ([OK], Retry, Stage.RCPT),
        ([OK, OK], Retry, Stage.DATA),
    ],
)
def test_a_connection_lost_in_the_envelope(
    heard: list[str], kind: type[Outcome], stage: Stage, *, pipelining: bool
) -> None:
    pipeline = Pipeline(pipelining=pipelining)
    pipeline.name(letter())
    for answer in heard:
        written(pipeline)
        assert say(pipeline, answer) == []
    written(pipeline)
    result = outcome(pipeline.lose(GONE, has_hung_up=True))
    assert (type(result), result.stage, result.reply) == (kind, stage, GONE)


def test_one_lost_while_its_begin_is_asked_for_ends_with_the_answer(pipeline: Pipeline) -> None:
    one = named(pipeline, letter())
    assert pipeline.lose(GONE, has_hung_up=True) == []
    assert pipeline.is_over
    result = outcome(pipeline.write(one))
    assert (type(result), result.stage) == (Retry, Stage.DATA)
    assert written(pipeline) == ""


def test_a_421_while_the_begin_is_asked_for_is_the_mailer_s(pipeline: Pipeline) -> None:
    one = named(pipeline, letter())
    assert say(pipeline, "421 4.4.2 timeout") == []
    assert isinstance(outcome(pipeline.write(one)), MailerDown)


def test_nothing_is_in_doubt_before_the_last_octet_of_the_dot_has_left(pipeline: Pipeline) -> None:
    one = named(pipeline, letter())
    pipeline.write(one)
    pipeline.name(letter("b"))
    pipeline.wrote(len(b"body a\r\n.\r"))
    assert pipeline.writing is one
    ended, returned = pipeline.lose(GONE)
    assert isinstance(ended, Ended)
    assert (type(ended.outcome), ended.outcome.stage) == (Retry, Stage.BODY)
    assert isinstance(returned, Returned)


def test_what_tls_may_have_sent_unreported_is_in_doubt(pipeline: Pipeline) -> None:
    pipeline.write(named(pipeline, letter()))
    pipeline.trying(len(b"body a\r\n.\r\n"))
    result = outcome(pipeline.lose(GONE))
    assert (type(result), result.stage) == (InDoubt, Stage.DOT)


def test_a_reply_in_the_middle_of_a_body_ends_it_without_a_dot(pipeline: Pipeline) -> None:
    pipeline.write(named(pipeline, letter(body=b"x" * 3 * BLOCK_BYTES + b"\r\n.\r\n")))
    pipeline.wrote(len(pipeline.block()))
    result = outcome(say(pipeline, "552 5.3.4 too big"))
    assert (type(result), result.stage) == (Fail, Stage.BODY)
    assert pipeline.is_over
    assert not pipeline.has_output


def test_a_used_connection_that_was_closed_meanwhile_harms_nobody() -> None:
    pipeline = Pipeline(pipelining=True, is_used=True)
    one = letter()
    pipeline.name(one)
    assert pipeline.lose(GONE, has_hung_up=True) == [Returned(one)]


def test_a_used_connection_whose_server_keeps_silent_is_down() -> None:
    pipeline = Pipeline(pipelining=True, is_used=True)
    pipeline.name(letter())
    assert isinstance(outcome(pipeline.lose(Reply(text="TimeoutError: timed out"))), MailerDown)


@pytest.mark.parametrize(
    ("heard", "kind", "stage"),
    [
        (["what?"], MailerDown, Stage.MAIL),
        ([GO], MailerDown, Stage.MAIL),
        ([OK, "what?"], Retry, Stage.RCPT),
        ([OK, "421 4.3.2 bye"], MailerDown, Stage.RCPT),
        ([OK, OK, "what?"], Retry, Stage.DATA),
        ([OK, OK, OK], Retry, Stage.DATA),
        ([OK, "550 5.1.1 no", "421 4.3.2 bye"], Fail, Stage.RCPT),
    ],
)
def test_what_is_no_smtp_ends_the_connection(
    pipeline: Pipeline, heard: list[str], kind: type[Outcome], stage: Stage
) -> None:
    pipeline.name(letter())
    written(pipeline)
    result = outcome(say(pipeline, *heard))
    assert (type(result), result.stage) == (kind, stage)
    assert pipeline.is_over


def test_what_is_no_smtp_after_the_dot_is_in_doubt(pipeline: Pipeline) -> None:
    sent(pipeline, letter())
    assert isinstance(outcome(say(pipeline, "what?")), InDoubt)
    assert pipeline.is_over


def test_a_server_that_speaks_unasked_is_hung_up_on(pipeline: Pipeline) -> None:
    assert say(pipeline, "421 4.4.2 idle for too long") == []
    assert pipeline.is_over


def test_a_refused_rset_ends_the_connection_and_returns_who_stood_behind_it(
    pipeline: Pipeline,
) -> None:
    pipeline.name(letter("a"))
    written(pipeline)
    say(pipeline, "550 5.7.1 no", "503 5.5.1 no", "503 5.5.1 no")
    behind = letter("b")
    pipeline.name(behind)
    written(pipeline)
    assert pipeline.awaited is Ask.RSET
    assert say(pipeline, "502 5.5.2 no") == [Returned(behind)]
    assert pipeline.is_over


def test_what_is_taken_back_goes_no_more_by_this_connection(pipeline: Pipeline) -> None:
    sent(pipeline, letter("a"))
    behind = letter("b")
    pipeline.name(behind)
    written(pipeline)
    assert pipeline.take_back() is behind
    assert pipeline.take_back() is None
    assert not pipeline.can_name
    assert isinstance(outcome(say(pipeline, OK, OK, OK, GO)), Sent)
    assert pipeline.is_over


# ------------------------------------------------------------------------------- in any pieces

REPLIES = st.sampled_from(
    [OK, OK, OK, OK, GO, GO, "451 4.3.0 later", "550 5.1.1 no", "452 4.5.3 many", "421 bye", "??"]
)


def play(octets: list[bytes], *, pipelining: bool, recipients: list[int]) -> list[Any]:
    """Give a server's octets to a pipeline that is permitted everything; return all that came."""
    pipeline = Pipeline(pipelining=pipelining)
    letters = [letter(f"{n}-", count) for n, count in enumerate(recipients)]
    waiting, bodies = list(letters), b""
    found: list[tuple[Any, ...]] = []

    def go_on() -> None:
        nonlocal bodies
        while waiting and pipeline.can_name:
            pipeline.name(waiting.pop(0))
        while pipeline.has_output:
            block = bytes(pipeline.block(7))
            pipeline.wrote(len(block))
            bodies += block

    def note(events: list[Event]) -> None:
        for event in events:
            where = letters.index(event.letter)
            if isinstance(event, Named):
                found.append(("named", where))
                note(pipeline.write(event.letter))
            elif isinstance(event, Ended):
                found.append((type(event.outcome), where, event.outcome))
            else:
                found.append(("returned", where))

    go_on()
    for piece in octets:
        note(pipeline.receive(piece))
        go_on()
    note(pipeline.lose(GONE, has_hung_up=True))
    ends = [entry[1] for entry in found if entry[0] != "named"]
    assert len(ends) == len(set(ends)), "each has one end"
    assert len(ends) == len(letters) - len(waiting), "and none is forgotten"
    begun = {entry[1] for entry in found if entry[0] == "named"}
    for entry in found:
        if entry[0] in {Sent, PartlySent, InDoubt, "returned"}:
            assert (entry[1] in begun) is (entry[0] != "returned")
    for where in range(len(letters)):
        if where not in begun:
            assert f"body {where}-".encode() not in bodies, "no body without a permit"
    return found


@given(
    st.lists(REPLIES, max_size=14),
    st.lists(st.integers(1, 3), min_size=1, max_size=4),
    st.lists(st.integers(0, 10**4), max_size=6),
    st.booleans(),
)
def test_replies_split_at_any_octet_lead_to_the_same(
    answers: list[str],
    recipients: list[int],
    at: list[int],
    pipelining: bool,
) -> None:
    # One reply at a time, so that both see the same of what was written before each.
    whole = [f"{answer}\r\n".encode() for answer in answers]
    pieces: list[bytes] = []
    for octets in whole:
        cuts = [0, *sorted(cut % (len(octets) + 1) for cut in at), len(octets)]
        pieces += [octets[start:end] for start, end in pairwise(cuts)]
    assert play(whole, pipelining=pipelining, recipients=recipients) == play(
        pieces, pipelining=pipelining, recipients=recipients
    )
