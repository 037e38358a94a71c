"""The words that the suite's SMTP servers share: the steps of a session and the polite replies."""

from __future__ import annotations

from enum import StrEnum

BODY_CUT_BYTES = 1000
"""How much of a body is read before anything is done at `Step.BODY`."""


class Step(StrEnum):
    """The moments at which a server can do something else than what is polite."""

    BANNER = "banner"
    EHLO = "ehlo"
    HELO = "helo"
    STARTTLS = "starttls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    BODY = "body"
    """After the first thousand bytes of the body."""
    DOT = "dot"
    """The dot is read, the reply not yet written."""
    ACCEPTED = "accepted"
    """The mail is taken for good, the 250 not yet written. Only `ledger_sink` knows this one."""
    RSET = "rset"
    NOOP = "noop"
    QUIT = "quit"


POLITE = {
    Step.BANNER: "220 scripted.example.org ESMTP",
    Step.HELO: "250 scripted.example.org",
    Step.STARTTLS: "220 2.0.0 Go ahead",
    Step.AUTH: "235 2.7.0 Welcome",
    Step.MAIL: "250 2.1.0 Sender ok",
    Step.RCPT: "250 2.1.5 Recipient ok",
    Step.DATA: "354 End with a dot",
    Step.DOT: "250 2.0.0 Queued",
    Step.RSET: "250 2.0.0 Flushed",
    Step.NOOP: "250 2.0.0 Here I am",
    Step.QUIT: "221 2.0.0 Bye",
}


def ehlo_reply(extensions: list[str]) -> str:
    """Return the reply to EHLO that announces these, without its last CRLF."""
    lines = ["scripted.example.org", *extensions]
    return "\r\n".join([f"250-{line}" for line in lines[:-1]] + [f"250 {lines[-1]}"])
