"""Replies and exceptions to outcomes, with the exceptions that the real libraries raise."""

from __future__ import annotations

import errno
import json
import smtplib
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.errors import HeaderParseError
from email.message import Message as Headers
from typing import Any

import pytest
import requests
from anymail import exceptions as anymail
from anymail.message import AnymailRecipientStatus, AnymailStatus
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage
from hypothesis import given
from hypothesis import strategies as st
from urllib3.exceptions import MaxRetryError, NewConnectionError, ProtocolError

from pillarbox.delivery import outcomes
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
    replies,
    web,
)

NOW = datetime(2026, 10, 21, 7, 26, tzinfo=UTC)


def classify(error: BaseException, stage: Stage = Stage.SEND) -> Outcome:
    return outcomes.classify(error, stage=stage, now=NOW)


def caught(function: Callable, *args: Any, **kwargs: Any) -> BaseException:
    """Return what the call raises, with the context that a real ``raise`` gives it."""
    with pytest.raises(Exception) as raised:  # noqa: PT011 - the caller looks at it
        function(*args, **kwargs)
    return raised.value


# ------------------------------------------------------------------------------------ replies


def test_the_enhanced_code_is_taken_out_of_every_line() -> None:
    reply = replies.parse(550, b"5.1.1 No such user\n5.1.1 Ask the postmaster")
    assert reply == Reply(550, "5.1.1", "No such user\nAsk the postmaster")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (550, b"No such user"),
        (550, b"4.1.1 Of another class"),
        (354, b"3.0.0 No such class"),
        (250, b"127.0.0.1 greets you"),
        (550, b"5.1.1234 Too long"),
        (550, b"5.1.1No space"),
    ],
)
def test_what_is_no_enhanced_code_stays_in_the_text(code: int, text: bytes) -> None:
    assert replies.parse(code, text) == Reply(code, "", text.decode())


def test_an_enhanced_code_may_stand_alone() -> None:
    assert replies.parse(250, b"2.0.0") == Reply(250, "2.0.0", "")


def test_a_reply_in_no_encoding_is_kept_readable() -> None:
    assert replies.parse(550, b"5.1.1 ung\xfcltig").text == "ung\ufffdltig"


@pytest.mark.parametrize("code", [-1, 0, 12, 199, 600, 999])
def test_what_is_no_smtp_has_no_code(code: int) -> None:
    assert replies.parse(code, b"%&/(") == Reply(None, "", "%&/(")


NO_REPLY = Reply(-1, "", "%&/(")
EARLY = [Stage.OPEN, Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.BODY, Stage.DOT, Stage.SEND]
TABLE: dict[int, list[type[Outcome]]] = {
    451: [MailerDown, Retry, Retry, Retry, Retry, Retry, Retry],
    554: [MailerDown, Fail, Fail, Fail, Fail, Fail, Fail],
    421: [MailerDown, MailerDown, MailerDown, MailerDown, Retry, Retry, Retry],
    530: [MailerDown, MailerDown, Fail, Fail, Fail, Fail, MailerDown],
    535: [MailerDown, MailerDown, Fail, Fail, Fail, Fail, MailerDown],
    -1: [MailerDown, MailerDown, Retry, Retry, Retry, InDoubt, InDoubt],
    354: [MailerDown, MailerDown, Retry, Retry, Retry, InDoubt, InDoubt],
    999: [MailerDown, MailerDown, Retry, Retry, Retry, InDoubt, InDoubt],
}


@pytest.mark.parametrize(
    ("code", "stage", "kind"),
    [
        (code, stage, kind)
        for code, kinds in TABLE.items()
        for stage, kind in zip(EARLY, kinds, strict=True)
    ],
)
def test_a_refusal_means_what_its_stage_says(code: int, stage: Stage, kind: type[Outcome]) -> None:
    reply = Reply(code, "", "words")
    assert replies.refused(reply, stage=stage) == kind(reply=reply, stage=stage)


def test_all_refused_is_retried_where_any_refusal_is_transient() -> None:
    refused = {"a@example.org": Reply(550), "b@example.org": Reply(452)}
    outcome = replies.all_refused(refused)
    assert outcome == Retry(reply=Reply(452), stage=Stage.RCPT, recipients=refused)


def test_all_refused_for_good_fails() -> None:
    refused = {"a@example.org": Reply(550), "b@example.org": Reply(553)}
    assert replies.all_refused(refused) == Fail(
        reply=Reply(550), stage=Stage.RCPT, recipients=refused
    )


@pytest.mark.parametrize(
    ("reply", "some_accepted", "code"),
    [
        (Reply(552, "", "Too many recipients"), True, 452),
        (Reply(552, "5.5.3", "Too many recipients"), False, 452),
        (Reply(552, "", "Mailbox full"), False, 552),
        (Reply(552, "5.2.2", "Mailbox full"), True, 552),
        (Reply(550, "", "No such user"), True, 550),
    ],
)
def test_a_552_of_too_many_recipients_is_read_as_452(
    reply: Reply, some_accepted: bool, code: int
) -> None:
    read = replies.too_many_recipients(reply, some_accepted=some_accepted)
    assert read.code == code
    assert reply.text in read.text


# ------------------------------------------------------------------------------------ smtplib

REFUSED_MIXED = {"A@example.org": (550, b"5.1.1 No"), "b@example.org": (450, b"4.2.1 Later")}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (smtplib.SMTPServerDisconnected("Connection unexpectedly closed"), InDoubt),
        (smtplib.SMTPRecipientsRefused(REFUSED_MIXED), Retry),
        (smtplib.SMTPRecipientsRefused({"a@example.org": (550, b"5.1.1 No")}), Fail),
        (smtplib.SMTPRecipientsRefused({"a@example.org": (421, b"4.3.2 Bye")}), MailerDown),
        (smtplib.SMTPRecipientsRefused({}), Fail),
        (smtplib.SMTPSenderRefused(451, b"4.3.0 Busy", "a@example.org"), Retry),
        (smtplib.SMTPSenderRefused(550, b"5.7.1 Not you", "a@example.org"), Fail),
        (smtplib.SMTPSenderRefused(421, b"4.3.2 Bye", "a@example.org"), MailerDown),
        (smtplib.SMTPSenderRefused(530, b"5.7.0 Log in", "a@example.org"), MailerDown),
        (smtplib.SMTPDataError(452, b"4.3.1 Disk full"), Retry),
        (smtplib.SMTPDataError(421, b"4.3.2 Bye"), Retry),
        (smtplib.SMTPDataError(554, b"5.6.0 Spam"), Fail),
        (smtplib.SMTPDataError(-1, b"?"), InDoubt),
        (smtplib.SMTPConnectError(554, b"Go away"), MailerDown),
        (smtplib.SMTPHeloError(501, b"Who?"), MailerDown),
        (smtplib.SMTPAuthenticationError(535, b"5.7.8 No"), MailerDown),
        (smtplib.SMTPNotSupportedError("STARTTLS extension not supported by server."), MailerDown),
        (smtplib.SMTPNotSupportedError("SMTPUTF8 not supported by server"), Fail),
        (smtplib.SMTPResponseException(454, "TLS not available"), MailerDown),
        (smtplib.SMTPResponseException(500, "Line too long."), InDoubt),
        (smtplib.SMTPException("No suitable authentication method found."), Retry),
    ],
)
def test_smtplibs_errors_from_a_foreign_backend(
    error: smtplib.SMTPException, kind: type[Outcome]
) -> None:
    assert type(classify(error)) is kind


def test_the_refused_recipients_keep_their_replies() -> None:
    outcome = classify(smtplib.SMTPRecipientsRefused(REFUSED_MIXED))
    assert outcome.recipients == {
        "a@example.org": Reply(550, "5.1.1", "No"),
        "b@example.org": Reply(450, "4.2.1", "Later"),
    }


def test_a_reply_in_an_error_is_parsed() -> None:
    outcome = classify(smtplib.SMTPDataError(554, b"5.6.0 Spam"))
    assert outcome.reply == Reply(554, "5.6.0", "Spam")


# ----------------------------------------------------------------------------- the network, TLS


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), MailerDown),
        (socket.gaierror(-2, "Name or service not known"), MailerDown),
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), MailerDown),
        (ConnectionResetError(errno.ECONNRESET, "reset"), InDoubt),
        (BrokenPipeError(errno.EPIPE, "pipe"), InDoubt),
        (TimeoutError("timed out"), InDoubt),
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), InDoubt),
        (OSError(errno.EHOSTUNREACH, "No route to host"), InDoubt),
        (PermissionError(errno.EACCES, "the directory of a file backend"), Retry),
    ],
)
def test_the_networks_errors_from_a_foreign_backend(error: OSError, kind: type[Outcome]) -> None:
    assert type(classify(error)) is kind


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        TimeoutError("timed out"),
        ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER]"),
        smtplib.SMTPServerDisconnected("Connection unexpectedly closed"),
        smtplib.SMTPAuthenticationError(535, b"5.7.8 No"),
        ImproperlyConfigured("no key"),
        anymail.AnymailInvalidMailer("unknown option"),
        ValueError("whatever"),
        LookupError("no such mailer"),
        Exception("of no known class"),
    ],
)
def test_whatever_fails_at_open_is_the_mailers_fault(error: Exception) -> None:
    assert type(classify(error, Stage.OPEN)) is MailerDown


# ------------------------------------------------------------------------------------- content


@pytest.mark.parametrize(
    "error",
    [
        ValueError("Header values can't contain newlines"),
        caught("ü".encode, "ascii"),
        caught("x".encode, "klingon"),
        TypeError("attachment must be bytes"),
        HeaderParseError("folded header"),
    ],
)
@pytest.mark.parametrize("stage", [Stage.SEND, Stage.RENDER])
def test_a_bad_content_fails(error: Exception, stage: Stage) -> None:
    assert type(classify(error, stage)) is Fail


def test_any_class_of_error_at_rendering_fails_but_a_lack_of_files_or_memory() -> None:
    assert type(classify(RuntimeError("boom"), Stage.RENDER)) is Fail
    assert type(classify(KeyError("boom"), Stage.RENDER)) is Fail
    assert type(classify(FileNotFoundError("report.pdf"), Stage.RENDER)) is Retry
    assert type(classify(MemoryError(), Stage.RENDER)) is Retry


class Boom(Exception):
    """Of a class that nobody has heard of."""


def test_an_unknown_class_is_retried_and_charged() -> None:
    outcome = classify(Boom("who am I"))
    assert outcome == Retry(reply=Reply(text="Boom: who am I"), stage=Stage.SEND)


def test_an_error_whose_text_cannot_be_made_is_classified_all_the_same() -> None:
    class Speechless(Exception):
        def __str__(self) -> str:
            raise AttributeError("reason")

    assert type(classify(Speechless())) is Retry


def test_the_wrapped_error_speaks_where_the_wrapper_says_nothing() -> None:
    def send() -> None:
        try:
            raise TimeoutError("read")
        except TimeoutError as error:
            raise Boom from error

    assert type(classify(caught(send))) is InDoubt


def test_wrong_settings_are_the_mailers_fault() -> None:
    assert type(classify(ImproperlyConfigured("no key"))) is MailerDown
    assert type(classify(anymail.AnymailConfigurationError("no key"))) is MailerDown


# ---------------------------------------------------------------------------------------- HTTP


def answer(
    status: int, headers: dict[str, str] | None = None, body: str = "{}"
) -> requests.Response:
    """Return an answer as requests gives it."""
    response = requests.Response()
    response.status_code = status
    response.reason = "of the service"
    response.headers.update(headers or {})
    response._content = body.encode()
    return response


STATUSES: dict[int, type[Outcome]] = {
    200: InDoubt,
    302: MailerDown,
    400: Fail,
    401: MailerDown,
    402: MailerDown,
    403: MailerDown,
    404: Fail,
    408: Retry,
    413: Fail,
    422: Fail,
    429: Retry,
    500: Retry,
    502: InDoubt,
    503: Retry,
    504: InDoubt,
}


@pytest.mark.parametrize(("status", "kind"), STATUSES.items())
def test_a_status_means_the_same_from_requests_and_anymail(
    status: int, kind: type[Outcome]
) -> None:
    for error in (
        requests.HTTPError(f"{status} of the service", response=answer(status)),
        anymail.AnymailRequestsAPIError("no", response=answer(status)),
    ):
        outcome = classify(error)
        assert type(outcome) is kind
        assert f"HTTP {status}" in outcome.reply.text
        assert outcome.reply.code is None


def test_a_status_of_urllib() -> None:
    error = urllib.error.HTTPError("https://x", 429, "slow", Headers(), None)
    error.headers["Retry-After"] = "7"
    outcome = classify(error)
    error.close()
    assert outcome.reply.text.startswith("HTTP 429")
    assert isinstance(outcome, Retry)
    assert outcome.after == timedelta(seconds=7)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("headers", "after"),
    [
        ({"Retry-After": "120"}, timedelta(minutes=2)),
        ({"retry-after": " 120 "}, timedelta(minutes=2)),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, timedelta(minutes=2)),
        (
            {
                "Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT",
                "Date": "Wed, 21 Oct 2026 07:27:00 GMT",
            },
            timedelta(minutes=1),
        ),
        ({"Retry-After": "Wed, 21 Oct 2020 07:28:00 GMT"}, timedelta()),
        ({"Retry-After": "9" * 30}, timedelta(days=365)),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_believed_in_both_forms(
    status: int, headers: dict[str, str], after: timedelta | None
) -> None:
    error = anymail.AnymailRequestsAPIError("no", response=answer(status, headers))
    outcome = classify(error)
    assert isinstance(outcome, Retry)
    assert outcome.after == after


@given(st.text(), st.text())
def test_no_retry_after_breaks_anything(asked: str, date: str) -> None:
    wait = web.retry_after({"Retry-After": asked, "Date": date}, NOW)
    assert wait is None or timedelta() <= wait <= timedelta(days=365)


# ------------------------------------------------------------------------- requests, for real


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Yield the port of a server that takes connections and requests, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closing_port() -> Iterator[int]:
    """Yield the port of a server that reads a request and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            client, _ = server.accept()
            client.recv(65536)
            client.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


@pytest.fixture
def closed_port() -> int:
    """Return a port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def post(port: int) -> BaseException:
    with requests.Session() as session:
        return caught(session.post, f"http://127.0.0.1:{port}/send", json={}, timeout=0.3)


def as_anymail(error: BaseException) -> BaseException:
    """Wrap the error of requests as Anymail's backends do."""
    kind = type("AnymailRequestsAPIError", (anymail.AnymailRequestsAPIError, type(error)), {})

    def send() -> None:
        raise kind("Error posting to the service:") from error

    return caught(send)


def test_a_service_that_does_not_listen_is_down(closed_port: int) -> None:
    error = post(closed_port)
    assert isinstance(error, requests.ConnectionError)
    assert type(classify(error)) is MailerDown
    assert type(classify(as_anymail(error))) is MailerDown


def test_a_service_that_does_not_answer_leaves_a_doubt(silent_port: int) -> None:
    error = post(silent_port)
    assert isinstance(error, requests.ReadTimeout)
    assert type(classify(error)) is InDoubt
    assert type(classify(as_anymail(error))) is InDoubt


def test_a_service_that_hangs_up_leaves_a_doubt(closing_port: int) -> None:
    error = post(closing_port)
    assert isinstance(error, requests.ConnectionError)
    assert type(classify(error)) is InDoubt
    assert type(classify(as_anymail(error))) is InDoubt


def test_urllib_says_the_same(closed_port: int) -> None:
    error = caught(urllib.request.urlopen, f"http://127.0.0.1:{closed_port}/", timeout=1)
    assert type(classify(error)) is MailerDown


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (requests.ConnectTimeout("slow"), MailerDown),
        (requests.exceptions.ProxyError("no proxy"), MailerDown),
        (requests.exceptions.InvalidURL("https://"), MailerDown),
        (requests.exceptions.SSLError("EOF occurred"), InDoubt),
        (requests.exceptions.ChunkedEncodingError("cut"), InDoubt),
        (requests.exceptions.InvalidJSONError("out of range float"), Fail),
        (requests.exceptions.JSONDecodeError("Expecting value", "<html>", 0), InDoubt),
        (json.JSONDecodeError("Expecting value", "<html>", 0), InDoubt),
    ],
)
def test_other_errors_of_requests(error: Exception, kind: type[Outcome]) -> None:
    assert type(classify(error)) is kind
    if not isinstance(error, json.JSONDecodeError):  # that one Anymail does not wrap
        assert type(classify(as_anymail(error))) is kind


def test_the_reason_inside_of_urllib3s_retries_is_found() -> None:
    def send(reason: Exception) -> None:
        try:
            raise MaxRetryError(None, "/send", reason) from reason  # type: ignore[arg-type]
        except MaxRetryError as error:
            raise requests.ConnectionError(error)  # noqa: B904 - as requests does it

    refused = NewConnectionError(None, "Failed to establish a new connection")  # type: ignore[arg-type]
    assert type(classify(caught(send, refused))) is MailerDown
    assert type(classify(caught(send, ProtocolError("Connection aborted.")))) is InDoubt


# ------------------------------------------------------------------------- Anymail and botocore


@pytest.mark.parametrize(
    "error",
    [
        anymail.AnymailInvalidAddress("not an address"),
        anymail.AnymailUnsupportedFeature("amp"),
        anymail.AnymailSerializationError("a Decimal"),
        anymail.AnymailRecipientsRefused(),
        anymail.AnymailCancelSend(),
    ],
)
def test_anymails_complaints_about_the_message_fail_it(error: anymail.AnymailError) -> None:
    assert type(classify(error)) is Fail


def test_an_answer_that_anymail_cannot_read_leaves_a_doubt() -> None:
    error = anymail.AnymailRequestsAPIError("Invalid JSON", response=answer(200, body="<html>"))
    assert type(classify(error)) is InDoubt
    assert type(classify(anymail.AnymailAPIError("KeyError parsing the result"))) is InDoubt


def status_of(**statuses: str | None) -> AnymailStatus:
    status = AnymailStatus()
    status.set_recipient_status(
        {
            f"{name}@Example.org": AnymailRecipientStatus(f"id-{name}", said)
            for name, said in statuses.items()
        }
    )
    return status


def test_the_refusals_that_anymail_raises_are_told_by_address() -> None:
    message = EmailMessage()
    message.anymail_status = status_of(ann="rejected", bob="invalid")  # type: ignore[attr-defined]
    error = anymail.AnymailRecipientsRefused(email_message=message, response=answer(200))
    outcome = classify(error)
    assert type(outcome) is Fail
    assert {address: reply.code for address, reply in outcome.recipients.items()} == {
        "ann@example.org": 550,
        "bob@example.org": 550,
    }


def test_what_the_service_took_is_sent() -> None:
    outcome = outcomes.from_anymail(status_of(ann="sent", bob="queued", eve="unknown", joe=None))
    assert type(outcome) is Sent
    assert outcome.recipients == {}
    assert outcome.reply.text == "id-ann id-bob id-eve id-joe"


def test_what_the_service_took_in_part_is_partly_sent() -> None:
    outcome = outcomes.from_anymail(status_of(ann="sent", bob="rejected", eve="failed"))
    assert type(outcome) is PartlySent
    assert sorted(outcome.recipients) == ["bob@example.org", "eve@example.org"]
    assert "rejected" in outcome.recipients["bob@example.org"].text


def test_what_the_service_took_from_nobody_fails() -> None:
    assert type(outcomes.from_anymail(status_of(ann="invalid"))) is Fail


def test_one_id_for_all_recipients_is_the_replys_text() -> None:
    status = AnymailStatus()
    status.set_recipient_status({"ann@example.org": AnymailRecipientStatus("id-1", "queued")})
    assert outcomes.from_anymail(status).reply == Reply(text="id-1")


def test_a_backend_that_sends_nothing_and_says_nothing_is_asked_again() -> None:
    assert type(outcomes.not_sent()) is Retry


def aws(code: str, status: int = 400) -> Exception:
    """Return an error of the shape of botocore's ClientError."""

    class ClientError(Exception):
        response = {
            "Error": {"Code": code, "Message": "words"},
            "ResponseMetadata": {
                "HTTPStatusCode": status,
                "HTTPHeaders": {"retry-after": "3"},
            },
        }

    return ClientError(f"An error occurred ({code})")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (aws("ThrottlingException"), Retry),
        (aws("TooManyRequestsException", 429), Retry),
        (aws("AccountSuspendedException"), MailerDown),
        (aws("SignatureDoesNotMatch", 403), MailerDown),
        (aws("MessageRejected"), Fail),
        (aws("InternalFailure", 500), Retry),
    ],
)
def test_the_errors_of_botocore_are_known_by_their_shape(
    error: Exception, kind: type[Outcome]
) -> None:
    def send() -> None:
        raise anymail.AnymailAPIError(str(error), response=error.response) from error  # type: ignore[attr-defined]

    assert type(classify(error)) is kind
    assert type(classify(caught(send))) is kind


def test_a_botocore_error_without_a_status_is_known_by_its_code() -> None:
    error = Boom("Throttling")
    error.response = {"Error": {"Code": "Throttling"}}  # type: ignore[attr-defined]
    assert type(classify(error)) is Retry
    error.response = {"Error": {"Code": "MessageRejected"}}  # type: ignore[attr-defined]
    assert type(classify(error)) is Fail


def test_botocores_connection_errors_are_known_by_name() -> None:
    def named(name: str) -> Exception:
        return type(name, (Exception,), {"__module__": "botocore.exceptions"})("words")

    assert type(classify(named("EndpointConnectionError"))) is MailerDown
    assert type(classify(named("NoCredentialsError"))) is MailerDown
    assert type(classify(named("ConnectionClosedError"))) is InDoubt
    assert type(classify(named("ParamValidationError"))) is Fail


def test_headers_of_an_unknown_shape_are_no_headers() -> None:
    error = Boom("busy")
    error.response = type("Answer", (), {"status_code": 503, "headers": 7})()  # type: ignore[attr-defined]
    outcome = classify(error)
    assert isinstance(outcome, Retry)
    assert outcome.after is None
