"""Tells what became of messages, after the commit: one log record an attempt, and the signals.

Log records hold ids, names, codes and times; never an address, a subject or a body.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

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


def settled(attempts: Iterable[tuple[Result, Verdict]], drain: str) -> None:
    """Log the attempts that ``drain`` has recorded in one commit, and send their signals."""
    records = _Records()
    for result, verdict in attempts:
        level = logging.INFO if isinstance(result.outcome, Sent) else logging.WARNING
        if logger.isEnabledFor(level):
            _log(records, level, result, verdict, drain)
        if verdict.signal is not None:
            signals.announce(verdict.signal, result.parcel.message, outcome=result.outcome)


class _Records:
    """Log records of one moment, copies of the first: `Logger.log` makes each from nothing.

    It would look where it stands, in which thread and process. Where a project has a factory of
    its own, or a class of loggers, that makes each.
    """

    def __init__(self) -> None:
        is_plain = logging.getLogRecordFactory() is logging.LogRecord
        self._is_plain = is_plain and type(logger) is logging.Logger
        self._first: dict[int, logging.LogRecord] = {}

    def make(self, level: int, what: tuple[object, ...]) -> logging.LogRecord:
        """Return a record of an attempt, ``what`` for the places in its text."""
        if not self._is_plain:
            return _record(level, what)
        first = self._first.get(level)
        if first is None:
            first = self._first[level] = _record(level, what)
        record = logging.LogRecord.__new__(logging.LogRecord)
        record.__dict__ = {**first.__dict__, "args": what}
        return record


def _record(level: int, what: tuple[object, ...]) -> logging.LogRecord:
    return logger.makeRecord(logger.name, level, __file__, _LINE, _ATTEMPT, what, None, "_log")


def _log(records: _Records, level: int, result: Result, verdict: Verdict, drain: str) -> None:
    message, outcome, reply = result.parcel.message, result.outcome, result.outcome.reply
    name, took_ms = result_name(result), round(result.took_s * 1000)
    mailer, stage = result.parcel.mailer, outcome.stage.value
    record = records.make(level, (message.id, name, mailer, took_ms, reply.code or stage))
    record.__dict__.update(
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
