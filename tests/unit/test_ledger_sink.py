"""The suite's own sink: the acceptance tests believe its ledger, so it is tested itself."""

from __future__ import annotations

import gc
import smtplib
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import trustme

from tests.support.ledger_sink import LedgerSink, ledger_sink, ledger_sink_process
from tests.support.ledger_sink.faults import FAULTS, STEPS, Dice, always
from tests.support.processes import wait_for
from tests.support.smtp_steps import Step

MAIL = b"Message-ID: <%d@example.org>\r\n\r\nbody\r\n"
SESSION = ["banner", "ehlo", "mail", "rcpt", "data", "body", "dot", "accepted", "quit", "closed"]


@contextmanager
def client(sink: LedgerSink, timeout_s: float = 5) -> Iterator[smtplib.SMTP]:
    smtp = smtplib.SMTP(sink.host, sink.port, timeout=timeout_s)
    try:
        yield smtp
    finally:
        smtp.close()


def send(smtp: smtplib.SMTP, number: int = 1) -> None:
    smtp.sendmail("shop@example.org", ["ada@example.org"], MAIL % number)


def steps(sink: LedgerSink) -> list[str]:
    return [entry["step"] for entry in sink.entries()]


def test_every_step_of_a_mail_is_in_the_ledger_in_its_order() -> None:
    with ledger_sink() as sink, client(sink) as smtp:
        send(smtp)
        smtp.quit()
        wait_for(lambda: "closed" in steps(sink))
    assert steps(sink) == SESSION
    times = [entry["t"] for entry in sink.entries()]
    assert times == sorted(times)
    (accepted,) = sink.entries("accepted")
    assert (accepted["message_id"], accepted["recipients"]) == ("<1@example.org>", 1)
    assert (accepted["connection"], "fault" in accepted) == (1, False)


def test_the_process_says_where_it_listens_and_ends_cleanly_when_told_to() -> None:
    with ledger_sink_process(seed=3) as sink, client(sink) as smtp:
        for number in range(3):
            send(smtp, number)
        assert sum(sink.accepted().values()) == 3  # it is written before the reply
    assert sink.accepted() == {f"<{number}@example.org>": 1 for number in range(3)}
    assert steps(sink)[-1] == "closed"


def test_pipelined_commands_are_answered_one_by_one_in_one_write() -> None:
    with ledger_sink(pipelining=True) as sink:
        with socket.create_connection((sink.host, sink.port), timeout=5) as sock:
            lines = sock.makefile("rb")
            lines.readline()
            envelope = b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n"
            sock.sendall(b"EHLO me\r\n" + envelope)
            said = [lines.readline() for _ in range(8)]
            assert b"250-PIPELINING\r\n" in said or b"250 PIPELINING\r\n" in said
            assert [line[:3] for line in said[-3:]] == [b"250", b"250", b"354"]
            # The next envelope may follow the end of a body: RFC 2920 section 3.1.
            sock.sendall(MAIL % 1 + b".\r\n" + envelope + MAIL % 2 + b".\r\nQUIT\r\n")
            said = [lines.readline()[:3] for _ in range(6)]
        assert said == [b"250", b"250", b"250", b"354", b"250", b"221"]
    assert sink.accepted() == {"<1@example.org>": 1, "<2@example.org>": 1}


def test_a_body_that_is_a_lone_dot_and_one_that_comes_in_pieces_end_where_they_should() -> None:
    with ledger_sink() as sink:
        with socket.create_connection((sink.host, sink.port), timeout=5) as sock:
            lines = sock.makefile("rb")
            sock.sendall(b"MAIL FROM:<>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n.\r\n")
            assert [lines.readline()[:3] for _ in range(5)][-1] == b"250"
            sock.sendall(b"MAIL FROM:<>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n")
            assert [lines.readline()[:3] for _ in range(3)][-1] == b"354"
            for piece in (b"Message-ID:\r\n <9@x>\r\n\r\n..", b"\r\n.", b"\r", b"\n"):
                sock.sendall(piece)
            assert lines.readline()[:3] == b"250"
        assert sink.accepted() == {"": 1, "<9@x>": 1}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("step", [step for step in STEPS if step not in {"starttls", "accepted"}])
def test_a_fault_is_played_where_the_script_says_and_noted(step: Step, fault: str) -> None:
    with ledger_sink(always(step, fault), auth=True) as sink:
        try:
            with client(sink, timeout_s=0.3) as smtp:
                smtp.login("user", "password", initial_response_ok=True)
                send(smtp)
                smtp.quit()
        except (OSError, smtplib.SMTPException):
            pass
        assert fault in sink.faults(step)
    polite_enough = fault == "slow" or step == "quit"
    assert sum(sink.accepted().values()) == int(polite_enough)


@pytest.mark.parametrize("fault", ["disconnect", "hang", "garbage", "slow"])
def test_what_is_accepted_stays_so_whatever_the_client_hears(fault: str) -> None:
    with ledger_sink(always("accepted", fault)) as sink:
        with client(sink, timeout_s=0.4) as smtp:
            try:
                send(smtp)
            except (OSError, smtplib.SMTPException):
                assert fault != "slow"
            else:
                assert fault == "slow"
        assert sink.accepted() == {"<1@example.org>": 1}
        assert sink.faults("accepted") == {fault: 1}


@pytest.mark.parametrize("script", [{}, always("starttls", "slow")], ids=["at once", "slowly"])
def test_mail_comes_over_tls_too(script: dict[str, object]) -> None:
    authority = trustme.CA()
    ours, theirs = (
        ssl.SSLContext(way) for way in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT)
    )
    authority.issue_cert("127.0.0.1").configure_cert(ours)
    authority.configure_trust(theirs)
    with ledger_sink(script, tls=ours) as sink, client(sink) as smtp:  # type: ignore[arg-type]
        smtp.starttls(context=theirs)
        send(smtp)
        smtp.quit()
    assert sink.accepted() == {"<1@example.org>": 1}


def test_clients_who_come_as_it_closes_are_let_go() -> None:
    for _ in range(20):
        with ExitStack() as clients, ledger_sink() as sink:
            for _ in range(3):
                clients.enter_context(socket.socket()).connect((sink.host, sink.port))
    gc.collect()  # what it finds unclosed fails the test: a warning is an error


def test_a_seed_makes_the_faults_the_same_again() -> None:
    script = {step: [{"fault": "4xx", "probability": 0.3}] for step in ("mail", "rcpt")}

    def thrown(seed: int) -> list[str | None]:
        dice = Dice(script, seed)
        return [dice.throw(step) for _ in range(50) for step in (Step.MAIL, Step.RCPT)]

    assert thrown(1) == thrown(1)
    assert thrown(1) != thrown(2)
    assert 15 < thrown(1).count("4xx") < 45


def test_a_fault_comes_at_the_nth_time() -> None:
    dice = Dice({"mail": [{"fault": "5xx", "nth": [1, 3]}]})
    assert [dice.throw(Step.MAIL) for _ in range(4)] == ["5xx", None, "5xx", None]


@pytest.mark.parametrize(
    ("step", "entry"),
    [
        ("lunch", {"fault": "4xx"}),
        ("mail", {"fault": "flood"}),
        ("mail", {"fault": "4xx", "odds": 3}),
        ("accepted", {"fault": "5xx"}),
    ],
    ids=["step", "fault", "key", "liar"],
)
def test_a_script_that_makes_no_sense_is_refused(step: str, entry: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"no fault|Unknown|not a valid|not answered"):
        Dice({step: [entry]})
