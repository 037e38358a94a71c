"""What an exception means for the message it was raised for; pure, imports the standard library.

At `Stage.OPEN` nothing was said about any message: whatever was raised is `MailerDown`, wrong
settings included. From a backend that is not ours (`Stage.SEND`):

============================================================  ===================================
``SMTPRecipientsRefused``, ``SMTPSenderRefused``,             as the reply in it (see ``replies``)
``SMTPDataError``
``SMTPConnectError``, ``SMTPHeloError``,                       mailer
``SMTPAuthenticationError``,
``SMTPNotSupportedError`` (AUTH, STARTTLS)
``SMTPNotSupportedError`` (SMTPUTF8)                          fail: not by this server
``SMTPServerDisconnected``, a time-out, a reset, a TLS error  in doubt: it cannot say whether the
                                                              dot left
connection refused, host unknown, certificate not valid       mailer
``ImproperlyConfigured``, ``InvalidMailer``                   mailer
an HTTP status, an exception of requests, httpx, botocore     see ``web``
``AnymailRecipientsRefused``                                  as the status in it, else fail
``AnymailInvalidAddress`` and other ``ValueError``,           fail: the content is at fault
``TypeError``, unknown charset
any other class                                               retry, charged and so bounded
============================================================  ===================================

Worked examples::

    SMTPSenderRefused(451, b"4.3.0 Busy", …)                  Retry
    requests.ReadTimeout                                      InDoubt
    AnymailRequestsAPIError, 429 with "Retry-After: 120"      Retry(after=2 minutes)
    ConnectionError caused by urllib3's NewConnectionError    MailerDown
    AnymailAPIError caused by botocore's Throttling           Retry
    UnicodeEncodeError                                        Fail
"""

from __future__ import annotations

import errno
import smtplib
import socket
import ssl
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from pillarbox.addresses import bare
from pillarbox.delivery.outcomes import esp, replies, web
from pillarbox.delivery.outcomes.kinds import (
    Fail,
    InDoubt,
    MailerDown,
    Outcome,
    Reply,
    Retry,
    Stage,
)

_NEVER_REACHED = (
    ConnectionRefusedError,
    socket.gaierror,
    socket.herror,
    ssl.SSLCertVerificationError,
    smtplib.SMTPConnectError,
    smtplib.SMTPHeloError,
    smtplib.SMTPAuthenticationError,
)
_CUT_OFF = (smtplib.SMTPServerDisconnected, ConnectionError, TimeoutError, ssl.SSLError)
_CUT_OFF_ERRNOS = frozenset(
    {errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTUNREACH, errno.ENOTCONN}
)
_MISCONFIGURED = frozenset({"django.ImproperlyConfigured", "django.InvalidMailer"})
_CONTENT = frozenset(
    {
        "anymail.AnymailCancelSend",
        "anymail.AnymailInvalidAddress",
        "anymail.AnymailSerializationError",
        "anymail.AnymailUnsupportedFeature",
        "botocore.ParamValidationError",
        "builtins.TypeError",
        "builtins.ValueError",
        "email.MessageError",
        "requests.InvalidJSONError",
    }
)


def classify(error: BaseException, *, stage: Stage, now: datetime | None = None) -> Outcome:
    """Return what ``error``, raised at ``stage``, means for the message that was being sent.

    An exception that wraps another (``__cause__``, ``__context__``) is judged by the outermost one
    that says something. ``now`` is for a ``Retry-After`` that is a date; None is the clock's.
    """
    if stage is Stage.OPEN:
        return MailerDown(reply=_reply(error), stage=stage)
    if stage is Stage.RENDER:
        return _unrendered(error)
    now = now or datetime.now(UTC)
    for link in _chain(error):
        outcome = _judge(link, error, stage, now)
        if outcome is not None:
            return outcome
    return Retry(reply=_reply(error), stage=stage)


def _unrendered(error: BaseException) -> Outcome:
    # A missing file or memory may be there again later; the same content will not mend itself.
    passing = isinstance(error, OSError | MemoryError)
    kind: type[Outcome] = Fail
    if passing and not isinstance(error, smtplib.SMTPException):
        kind = Retry
    return kind(reply=_reply(error), stage=Stage.RENDER)


def _judge(
    link: BaseException, error: BaseException, stage: Stage, now: datetime
) -> Outcome | None:
    """Return what one link of the chain says, None where it says nothing; the order matters."""
    names = _names(link)
    if names & _MISCONFIGURED:
        return MailerDown(reply=_reply(error), stage=stage)
    if "anymail.AnymailRecipientsRefused" in names:
        return _all_refused_by_service(link, stage)
    if isinstance(link, smtplib.SMTPException):
        return _judge_smtp(link, stage)
    answer = _answer(link)
    if answer is not None:
        return _judge_answer(answer, error, stage, now)
    if names & (web.NEVER_CONNECTED | web.PERHAPS_TAKEN):
        every_name = {name for each in _chain(link) for name in _names(each)}
        return web.judge_transport(every_name, _reply(error), stage)
    if isinstance(link, OSError) and (outcome := _judge_os(link, error, stage)) is not None:
        return outcome
    if names & _CONTENT or type(link) is LookupError:  # an unknown charset; not KeyError
        return Fail(reply=_reply(error), stage=stage)
    if "anymail.AnymailAPIError" in names and link.__cause__ is None:
        return InDoubt(reply=_reply(error), stage=stage)  # the service's 2xx made no sense
    return None


def _judge_smtp(error: smtplib.SMTPException, stage: Stage) -> Outcome | None:
    if isinstance(error, _NEVER_REACHED):
        return MailerDown(reply=_reply(error), stage=stage)
    if isinstance(error, smtplib.SMTPServerDisconnected):
        return replies.cut_off(_reply(error), stage=stage)
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return _recipients_refused(error, stage)
    if isinstance(error, smtplib.SMTPNotSupportedError):
        kind: type[Outcome] = Fail if "SMTPUTF8" in str(error) else MailerDown
        return kind(reply=_reply(error), stage=stage)
    if isinstance(error, smtplib.SMTPSenderRefused):
        return replies.refused(_reply(error), stage=Stage.MAIL)
    if isinstance(error, smtplib.SMTPDataError):
        return replies.refused(_reply(error), stage=stage)
    if isinstance(error, smtplib.SMTPResponseException):
        return _judge_bare_reply(error, stage)
    return None


def _judge_bare_reply(error: smtplib.SMTPResponseException, stage: Stage) -> Outcome:
    if error.smtp_error == "Line too long.":  # smtplib's own words, at any point of the talk
        return replies.cut_off(_reply(error), stage=stage)
    return MailerDown(reply=_reply(error), stage=stage)  # STARTTLS was refused


def _recipients_refused(error: smtplib.SMTPRecipientsRefused, stage: Stage) -> Outcome:
    refused = {
        bare(address): replies.parse(code, text)
        for address, (code, text) in error.recipients.items()
    }
    for reply in refused.values():
        if reply.code == replies.CLOSING:
            return MailerDown(reply=reply, stage=Stage.RCPT, recipients=refused)
    if not refused:
        return Fail(reply=_reply(error), stage=stage)
    return replies.all_refused(refused)


def _judge_os(link: OSError, error: BaseException, stage: Stage) -> Outcome | None:
    if isinstance(link, _NEVER_REACHED):
        return MailerDown(reply=_reply(error), stage=stage)
    if isinstance(link, _CUT_OFF) or link.errno in _CUT_OFF_ERRNOS:
        return replies.cut_off(_reply(error), stage=stage)
    return None


def _all_refused_by_service(error: BaseException, stage: Stage) -> Outcome:
    status = getattr(getattr(error, "email_message", None), "anymail_status", None)
    if status is not None and status.recipients:
        return esp.from_anymail(status)
    return Fail(reply=_reply(error), stage=stage)


def _answer(error: BaseException) -> tuple[int, Mapping[str, str], str] | None:
    """Return an HTTP answer's status, headers and AWS error code, wherever they are kept."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, Mapping):  # botocore's
        meta = response.get("ResponseMetadata") or {}
        code = str((response.get("Error") or {}).get("Code", ""))
        status, headers = meta.get("HTTPStatusCode"), meta.get("HTTPHeaders")
    else:
        code = ""
        holder = error if response is None else response  # a response of requests may be false
        status = getattr(holder, "status_code", None)
        if status is None and "urllib.HTTPError" in _names(error):
            status = getattr(error, "code", None)
        headers = getattr(holder, "headers", None)
    if not isinstance(status, int) or isinstance(status, bool):
        return (400, {}, code) if code else None
    return status, _mapping(headers), code


def _mapping(headers: Any) -> Mapping[str, str]:
    try:
        return headers if isinstance(headers, Mapping) else dict(headers or {})
    except (TypeError, ValueError):
        return {}


def _judge_answer(
    answer: tuple[int, Mapping[str, str], str],
    error: BaseException,
    stage: Stage,
    now: datetime,
) -> Outcome:
    status, headers, code = answer
    reply = Reply(text=f"HTTP {status}: {_text(error)}")
    if code in esp.THROTTLED:
        return Retry(reply=reply, stage=stage, after=web.retry_after(headers, now))
    if code in esp.ACCOUNT:
        return MailerDown(reply=reply, stage=stage)
    return web.judge_status(status, headers, reply, stage, now)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the exception and those it came from, the outermost first."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _names(error: BaseException) -> set[str]:
    """Return ``package.Class`` for every class that the exception is an instance of."""
    return {f"{cls.__module__.partition('.')[0]}.{cls.__name__}" for cls in type(error).__mro__}


def _reply(error: BaseException) -> Reply:
    if isinstance(error, smtplib.SMTPResponseException):
        return replies.parse(error.smtp_code, error.smtp_error)
    return Reply(text=f"{type(error).__name__}: {_text(error)}")


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as fault:  # noqa: BLE001 - somebody else's __str__; its fault is not the message's
        return f"(its text could not be made: {type(fault).__name__})"
