"""What an SMTP reply, or the lack of one, means for the message; pure, and knows no socket.

==============  =========  ==========  ========  ======  ==================================
stage           4xx        5xx         421       530 …   no reply, or none that is SMTP
==============  =========  ==========  ========  ======  ==================================
open            mailer     mailer      mailer    mailer  mailer
mail            retry      fail        mailer    mailer  mailer
rcpt (each)     retry      fail        mailer    fail    retry
data            retry      fail        mailer    fail    retry
body            retry      fail        retry     fail    retry
dot             retry      fail        retry     fail    in doubt
send, unknown   retry      fail        retry     mailer  in doubt
==============  =========  ==========  ========  ======  ==================================

"mailer" is `MailerDown`, which charges no attempt; "530 …" are the replies about who we are
(530, 534, 535, 538: RFC 4954 section 6). From RCPT on a lost connection and, from the body on, a
421 too may be this message's doing, so they are charged: one poison message must not hold up a
mailer for ever. A 421 to MAIL, or a hang-up before the reply to it, on a connection that carried
mail before has no outcome: the message goes by a new one.

Worked examples::

    MAIL → 451 4.3.0 Try later                        Retry
    RCPT a → 250, RCPT b → 550 5.1.1, dot → 250       PartlySent(recipients={b: 550})
    RCPT a → 550 5.1.1, RCPT b → 452 4.5.3            Retry(recipients={a: 550, b: 452})
    RCPT a → 550 5.1.1, RCPT b → 553 5.1.3            Fail(recipients={a: 550, b: 553})
    RCPT a → 250, RCPT b → 452 4.5.3, c not asked     PartlySent(recipients={b: 452, c: 452},
                                                                 put_off={b, c})
    RCPT a → 250, RCPT b → 550, DATA → 554 5.6.0      Fail(recipients={b: 550}); a shares the 554
    dot written, then nothing for ten minutes         InDoubt
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pillarbox.delivery.outcomes.kinds import (
    NO_REPLIES,
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

SMTP_CODES = range(200, 600)
"""RFC 5321 4.2.1: the first digit is 2 to 5."""
CLOSING = 421
"""RFC 5321 4.2.2: the server hangs up after it, whatever it replied to."""
IDENTITY = frozenset({530, 534, 535, 538})
"""RFC 4954 section 6: authentication required, too weak, refused, or to be encrypted."""

_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?:[ \t]+|$)", re.MULTILINE)
_TOO_MANY = {"", "5.5.3"}


def parse(code: int, text: bytes | str) -> Reply:
    """Return a reply as smtplib gives it, the enhanced code (RFC 2034) taken out of its text.

    It is believed only where its class is that of the basic code, as RFC 2034 section 4 demands.
    What is no SMTP has no code: smtplib says -1, or whatever number the first three characters are.
    """
    words = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    if code not in SMTP_CODES:
        return Reply(text=words)
    found = _ENHANCED.match(words)
    if found is None or found[1][0] != str(code)[0]:
        return Reply(code=code, text=words)
    lines = [line.removeprefix(found[1]).strip() for line in words.splitlines()]
    return Reply(code=code, enhanced_code=found[1], text="\n".join(lines))


def is_positive(reply: Reply) -> bool:
    """Whether the reply is a 2xx: by its first digit alone, as RFC 5321 4.3.2 tells clients."""
    return reply.code is not None and 200 <= reply.code < 300


def is_refusal(reply: Reply) -> bool:
    """Whether the reply is a 4xx or 5xx, and not something that is no SMTP at all."""
    return reply.code is not None and 400 <= reply.code < 600


def is_transient(reply: Reply) -> bool:
    """Whether the reply is a 4xx."""
    return reply.code is not None and 400 <= reply.code < 500


def too_many_recipients(reply: Reply, *, some_accepted: bool) -> Reply:
    """Return the 452 that a 552 in answer to RCPT stands for, else the reply as it is.

    RFC 5321 4.5.3.1.10: old servers say 552 where they take no more recipients in one
    transaction, and a client should read it as temporary. A 552 for the first recipient, or one
    with another enhanced code (5.2.2, a full mailbox), means what it says.
    """
    if reply.code != 552 or reply.enhanced_code not in _TOO_MANY:
        return reply
    if not some_accepted and not reply.enhanced_code:
        return reply
    return Reply(code=452, enhanced_code="4.5.3", text=f"{reply.text} (the server said 552)")


def has_no_room(reply: Reply, *, some_accepted: bool) -> bool:
    """Whether the server takes no more recipients in this transaction, so that asking on is idle.

    RFC 5321 4.5.3.1.10 has 452 for it, RFC 3463 3.6 the enhanced 4.5.3. A 452 without an enhanced
    code may also be one recipient's full mailbox: it counts once others were accepted, since the
    next transaction then begins with that recipient, and a second 452 speaks of it alone.
    """
    if reply.code != 452:
        return False
    return reply.enhanced_code == "4.5.3" or (some_accepted and not reply.enhanced_code)


def refused(reply: Reply, *, stage: Stage, recipients: Mapping[str, Reply] = NO_REPLIES) -> Outcome:
    """Return what a reply that is not the hoped-for one means at ``stage``."""
    if not is_refusal(reply):
        return cut_off(reply, stage=stage, recipients=recipients)
    kind: type[Outcome] = Retry if is_transient(reply) else Fail
    if stage is Stage.OPEN or _is_about_us(reply, stage):
        kind = MailerDown
    return kind(reply=reply, stage=stage, recipients=recipients)


def _is_about_us(reply: Reply, stage: Stage) -> bool:
    if reply.code == CLOSING:
        return stage in {Stage.MAIL, Stage.RCPT, Stage.DATA}
    return reply.code in IDENTITY and stage in {Stage.MAIL, Stage.SEND, Stage.UNKNOWN}


def cut_off(reply: Reply, *, stage: Stage, recipients: Mapping[str, Reply] = NO_REPLIES) -> Outcome:
    """Return what a conversation means that ended at ``stage`` without a proper reply."""
    kind: type[Outcome] = InDoubt
    if stage in {Stage.OPEN, Stage.MAIL}:
        kind = MailerDown
    elif stage in {Stage.RENDER, Stage.RCPT, Stage.DATA, Stage.BODY}:
        kind = Retry
    return kind(reply=reply, stage=stage, recipients=recipients)


def all_refused(replies: Mapping[str, Reply], *, stage: Stage = Stage.RCPT) -> Outcome:
    """Return what it means that every recipient was refused: later, if any of them may be."""
    transient = [reply for reply in replies.values() if is_transient(reply)]
    if transient:
        return Retry(reply=transient[0], stage=stage, recipients=replies)
    return Fail(reply=next(iter(replies.values())), stage=stage, recipients=replies)


def accepted(
    reply: Reply,
    *,
    agreed: Mapping[str, Reply],
    declined: Mapping[str, Reply],
    put_off: frozenset[str] = frozenset(),
) -> Outcome:
    """Return what a 2xx after the dot means, given the replies to each RCPT."""
    if declined:
        return PartlySent(reply=reply, stage=Stage.DOT, recipients=declined, put_off=put_off)
    return Sent(reply=reply, stage=Stage.DOT, recipients=agreed)
