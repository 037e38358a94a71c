"""Tells what became of messages, after the commit: one log record an attempt, and the signals.

Log records hold ids, names, codes and times; never an address, a subject or a body.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pillarbox import signals
from pillarbox.delivery import verdicts
from pillarbox.delivery.outcomes import InDoubt, Sent, Stage
from pillarbox.delivery.senders.base import Result
from pillarbox.delivery.verdicts import Verdict
from pillarbox.models import Message

logger = logging.getLogger("pillarbox.delivery")

_NAMES = {kind: str(name.value) for kind, name in verdicts.RESULTS.items()}


def result_name(result: Result) -> str:
    """Return the outcome's name, as ``Attempt.result`` has it."""
    return _NAMES[type(result.outcome)]


def settled(result: Result, verdict: Verdict, drain: str) -> None:
    """Log an attempt that ``drain`` has recorded, and send its signal."""
    level = logging.INFO if isinstance(result.outcome, Sent) else logging.WARNING
    if logger.isEnabledFor(level):
        _log(level, result, verdict, drain)
    if verdict.signal is not None:
        signals.announce(verdict.signal, result.parcel.message, outcome=result.outcome)


def _log(level: int, result: Result, verdict: Verdict, drain: str) -> None:
    """Log by the record itself: `Logger.log` would look where it stands, for each of them anew."""
    message, outcome, reply = result.parcel.message, result.outcome, result.outcome.reply
    name, took_ms = result_name(result), round(result.took_s * 1000)
    mailer, stage = result.parcel.mailer, outcome.stage.value
    what = (message.id, name, mailer, took_ms, reply.code or stage)
    record = logger.makeRecord(logger.name, level, __file__, _LINE, _ATTEMPT, what, None, "_log")
    vars(record).update(
        message_pk=message.id,
        message_id=message.message_id,
        stream=message.stream,
        mailer=mailer,
        attempt=message.attempts,
        result=name,
        state=verdict.state.value,
        stage=stage,
        code=reply.code,
        enhanced_code=reply.enhanced_code,
        took_ms=took_ms,
        drain=drain,
    )
    logger.handle(record)


_ATTEMPT = "Message %d: %s by %s in %d ms (%s)"
_LINE = _log.__code__.co_firstlineno


def refused(result: Result) -> None:
    """Log a result that came too late: another has settled the message."""
    logger.warning(
        "Message %d: a late result (%s) is refused, since another drain or a person settled it.",
        result.parcel.message.pk,
        result_name(result),
        extra={"message_pk": result.parcel.message.pk, "result": result_name(result)},
    )


def unrecorded(results: Sequence[Result]) -> None:
    """Log that a drain ends with results that no database took: their messages are in doubt."""
    pks = sorted(result.parcel.message.pk for result in results)
    logger.error(
        "The database stayed away: the results of %d messages are left unrecorded, and these are "
        "in doubt (%s).",
        len(pks),
        ", ".join(map(str, pks)),
        extra={"message_pks": pks},
    )


def expired(message: Message) -> None:
    """Log and announce a message that was not sent before its ``expires_at``."""
    logger.warning(
        "Message %d expired before it was sent.",
        message.pk,
        extra={"message_pk": message.pk, "stream": message.stream, "state": message.state},
    )
    signals.announce(signals.message_expired, message)


def found_in_doubt(message: Message) -> None:
    """Log and announce a message whose worker died after begin."""
    logger.warning(
        "Message %d is in doubt: its worker died after begin.",
        message.pk,
        extra={"message_pk": message.pk, "stream": message.stream, "state": message.state},
    )
    signals.announce(signals.message_in_doubt, message, outcome=InDoubt(stage=Stage.UNKNOWN))
