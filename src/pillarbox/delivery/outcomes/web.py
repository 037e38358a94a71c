"""What an HTTP status or a failed HTTP request means for the message; pure, imports no client.

==========================================  ==================================================
2xx that the client could not understand    in doubt: it was taken
1xx, 3xx                                    mailer: the address of the service is wrong
401, 402, 403, 407                          mailer: the key, the account, the proxy
408, 425                                    retry: the request was not processed
429, 503                                    retry, after ``Retry-After`` where it is given
other 4xx                                   fail
502, 504                                    in doubt: a gateway lost the answer
other 5xx                                   retry
connection never made                       mailer
connection lost, answer not in time         in doubt
==========================================  ==================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from pillarbox.delivery.outcomes.kinds import (
    Fail,
    InDoubt,
    MailerDown,
    Outcome,
    Reply,
    Retry,
    Stage,
)

_ACCOUNT = frozenset({401, 402, 403, 407})
_NOT_PROCESSED = frozenset({408, 425, 429})
_GATEWAY = frozenset({502, 504})
LONGEST = timedelta(days=365)
"""A longer wish means the same, and does not overflow a date."""

NEVER_CONNECTED = frozenset(
    {
        "botocore.ConnectTimeoutError",
        "botocore.EndpointConnectionError",
        "botocore.NoCredentialsError",
        "botocore.NoRegionError",
        "botocore.PartialCredentialsError",
        "botocore.ProxyConnectionError",
        "httpx.ConnectError",
        "httpx.ConnectTimeout",
        "httpx.PoolTimeout",
        "httpx.ProxyError",
        "httpx.UnsupportedProtocol",
        "requests.ConnectTimeout",
        "requests.InvalidHeader",
        "requests.InvalidSchema",
        "requests.InvalidURL",
        "requests.MissingSchema",
        "requests.ProxyError",
        "ssl.SSLCertVerificationError",
        "urllib3.ConnectTimeoutError",
        "urllib3.NewConnectionError",
        "urllib3.ProxyError",
    }
)
"""Nothing was asked of the service: no connection, or none that its certificate would have."""

PERHAPS_TAKEN = frozenset(
    {
        "botocore.ConnectionClosedError",
        "botocore.HTTPClientError",
        "http.HTTPException",
        "httpx.TransportError",
        "json.JSONDecodeError",
        "requests.ChunkedEncodingError",
        "requests.ConnectionError",
        "requests.ContentDecodingError",
        "requests.JSONDecodeError",
        "requests.RetryError",
        "requests.Timeout",
        "urllib3.HTTPError",
    }
)
"""The request was on its way, or its answer could not be read."""


def judge_status(
    status: int, headers: Mapping[str, str], reply: Reply, stage: Stage, now: datetime
) -> Outcome:
    """Return what an HTTP answer means; ``reply`` is what is kept of it."""
    if status in _ACCOUNT or 300 <= status < 400 or status < 200:
        return MailerDown(reply=reply, stage=stage)
    if status in _GATEWAY or status < 300:
        return InDoubt(reply=reply, stage=stage)
    if status < 500 and status not in _NOT_PROCESSED:
        return Fail(reply=reply, stage=stage)
    return Retry(reply=reply, stage=stage, after=retry_after(headers, now))


def judge_transport(names: Iterable[str], reply: Reply, stage: Stage) -> Outcome:
    """Return what a request without an answer means, by every class name in its chain."""
    kind: type[Outcome] = MailerDown if NEVER_CONNECTED.intersection(names) else InDoubt
    return kind(reply=reply, stage=stage)


def retry_after(headers: Mapping[str, str], now: datetime) -> timedelta | None:
    """Return the wait that ``Retry-After`` asks for (RFC 9110 10.2.3), None where it is unclear.

    Both forms: ``120`` and ``Wed, 21 Oct 2026 07:28:00 GMT``. A date is counted from the answer's
    own ``Date`` where there is one, so that neither clock need be right; the past is no wait.
    """
    fields = {str(name).lower(): str(value).strip() for name, value in headers.items()}
    asked = fields.get("retry-after", "")
    if asked.isascii() and asked.isdigit():
        return min(timedelta(seconds=int(asked[:9])), LONGEST)
    until = _parse_date(asked)
    if until is None:
        return None
    since = _parse_date(fields.get("date", "")) or now
    return min(max(timedelta(), until - since), LONGEST)


def _parse_date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
