"""``manage.py pillarbox doctor`` on healthy and on sick projects, with real servers."""

from __future__ import annotations

import io
import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from django.core import mail
from django.core.checks import Info
from django.core.management import call_command
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from pytest_django import Settings

from pillarbox import compat, send_email
from pillarbox.management.doctor import settings as doctor_settings
from pillarbox.models import Circuit, DatabaseNow, Message, Pause, State
from pillarbox.testing import ScriptedMailer, freeze
from tests.support.mailers import delivering_by, delivering_to
from tests.support.processes import running, with_settings
from tests.support.scripted_smtp import HangUp, Say, ScriptedServer, Step
from tests.support.smtp_sink import Sink, smtp_sink
from tests.support.wakes import closed_port, forget_wakes, smtp_settings

AUTHORITY = trustme.CA()
Findings = list[dict[str, Any]]

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _worker_engine(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Need no worker: most tests are about something else."""
    settings.PILLARBOX = {"ENGINE": "immediate"}
    forget_wakes(monkeypatch)


def examine(*arguments: str) -> tuple[int, str]:
    """Run the doctor in this process; return its exit code and its report."""
    out = io.StringIO()
    try:
        call_command("pillarbox", "doctor", "--wait", "0.1", *arguments, stdout=out)
    except SystemExit as end:
        return int(end.code or 0), out.getvalue()
    return 0, out.getvalue()


def examine_as_process(env: dict[str, str], *arguments: str) -> tuple[int, Findings]:
    """Run the doctor as a user does; return its exit code and its findings."""
    command = [sys.executable, "-m", "django", "pillarbox", "doctor", "--json", *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    assert report["ok"] is (done.returncode == 0)
    return done.returncode, report["findings"]


def texts(findings: Findings, topic: str, grade: str = "good") -> list[str]:
    """Return what is said of a topic."""
    return [it["text"] for it in findings if (it["topic"], it["grade"]) == (topic, grade)]


# A healthy project, as it is


@pytest.fixture
def sink() -> Iterator[Sink]:
    with smtp_sink() as sink:
        yield sink


def keeping_replies(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with our SMTP backend in the place of Django's."""
    text = json.dumps(settings)
    changed: dict[str, Any] = json.loads(text.replace("django.core.mail", "pillarbox"))
    return changed


@pytest.mark.django_db(transaction=True)
def test_a_healthy_project_is_well_and_a_mail_is_timed_on_its_whole_way(
    process_env: dict[str, str], sink: Sink
) -> None:
    cluster = {"orm": "default", "workers": 1, "timeout": 60, "retry": 120, "poll": 0.05}
    env = with_settings(process_env, Q_CLUSTER=cluster, **keeping_replies(smtp_settings(sink)))
    # Django's own checks would ask the second database of the suite, which is not made here.
    with running(["-m", "django", "qcluster", "--skip-checks"], env, ready=" running."):
        code, findings = examine_as_process(env, "--send", "you@example.org", "--wait", "30")
    assert code == 0, findings
    assert texts(findings, "database")[0].endswith("(default) answers")
    assert texts(findings, "queue") == ["0 queued, 0 of them due"]
    assert texts(findings, "streams") == ['"default" is delivered by the mailer "default"']
    answers, encryption, login, noop = texts(findings, "mailer default")
    assert answers == f"{sink.host}:{sink.port} answers"
    assert encryption == "Not encrypted; it is on this host"
    assert login == "No login, since no username is set"
    assert noop.startswith("NOOP: 250")
    assert texts(findings, "engine")[0].startswith("django_q2: ORM default")
    assert "django_q2" in texts(findings, "worker")[0]
    queued, *legs, sent = texts(findings, "journey")
    assert queued.endswith("is queued and committed")
    assert legs[-1] == "Its conversation has begun"
    assert sent == 'The mailer "default" has sent it: 250 2.0.0 kept'
    took = [it["took_ms"] for it in findings if it["topic"] == "journey"]
    assert all(ms >= 0 for ms in took)
    assert sink.received[0].rcpt_tos == ("you@example.org",)


@pytest.mark.django_db(transaction=True)
def test_a_worker_that_runs_is_seen(process_env: dict[str, str], sink: Sink) -> None:
    pillarbox = {"ENGINE": "worker"}
    env = with_settings(process_env, PILLARBOX=pillarbox, **smtp_settings(sink))
    with running(["-m", "django", "pillarbox", "worker"], env, ready="delivers on") as worker:
        code, findings = examine_as_process(env, "--wait", "20")
    assert code == 0, findings
    assert f"process {worker.popen.pid} (worker)" in texts(findings, "worker")[0]


@pytest.mark.django_db(transaction=True)
def test_without_a_worker_it_says_how_to_start_one(process_env: dict[str, str], sink: Sink) -> None:
    env = with_settings(process_env, **smtp_settings(sink))
    code, findings = examine_as_process(env, "--wait", "0.3", "--send", "you@example.org")
    assert code == 1
    assert "None has come forward within 300 ms" in texts(findings, "worker", "bad")[0]
    assert "manage.py qcluster" in str(findings)
    assert "nobody has sent it" in texts(findings, "journey", "bad")[0]
    message = Message.objects.get()
    assert message.expires_at is not None, "nobody waits for it later on"


def test_a_database_that_cannot_be_reached_is_said_and_the_rest_examined(
    process_env: dict[str, str], sink: Sink
) -> None:
    nowhere = {"ENGINE": "django.db.backends.sqlite3", "NAME": "/no/such/directory/x.sqlite3"}
    wal = {"init_command": "PRAGMA journal_mode=WAL", "transaction_mode": "IMMEDIATE"}
    databases = {"default": {**nowhere, "OPTIONS": wal}}
    env = with_settings(process_env, DATABASES=databases, **smtp_settings(sink))
    code, findings = examine_as_process(env)
    assert code == 1
    assert "OperationalError" in texts(findings, "database", "bad")[0]
    assert len(texts(findings, "mailer default")) == 4
    assert not texts(findings, "worker", "bad")


def test_a_broker_that_cannot_be_reached_is_said(process_env: dict[str, str], sink: Sink) -> None:
    cluster = {"redis": {"host": "127.0.0.1", "port": closed_port()}, "timeout": 60, "retry": 120}
    env = with_settings(process_env, Q_CLUSTER=cluster, **smtp_settings(sink))
    code, findings = examine_as_process(env, "--wait", "0.1")
    assert code == 1
    assert "ConnectionError" in texts(findings, "engine", "bad")[0]
    assert "The engine took no wake" in texts(findings, "worker", "bad")[0]


# Settings and the database, in this process


def test_wrong_settings_are_said_and_nothing_else_is_tried(settings: Settings) -> None:
    settings.PILLARBOX = {"CONECTIONS": 4}
    code, report = examine()
    assert code == 1
    assert "✗ settings: PILLARBOX has the unknown key 'CONECTIONS'. (pillarbox.E002)" in report
    assert "→ Did you mean 'CONNECTIONS'?" in report
    assert "database" not in report


def test_a_check_that_is_silenced_is_not_said(settings: Settings) -> None:
    settings.DEFAULT_FROM_EMAIL = "webmaster@localhost"
    assert "! settings: DEFAULT_FROM_EMAIL is webmaster@localhost" in examine()[1]
    settings.SILENCED_SYSTEM_CHECKS = ["pillarbox.W003"]
    assert "W003" not in examine()[1]


def test_cautions_alone_leave_the_exit_code_at_0(settings: Settings) -> None:
    settings.PILLARBOX = {"ENGINE": "immediate", "REDIRECT_TO": ["staging@example.org"]}
    code, report = examine()
    assert code == 0
    assert "! settings: All mail goes to staging@example.org" in report
    assert "✓ worker: None is needed" in report
    assert (
        "! mailer default: django.core.mail.backends.locmem.EmailBackend delivers to no" in report
    )
    assert report.endswith("All is well.\n")


def test_a_migration_that_is_missing_is_said() -> None:
    MigrationRecorder(connection).record_unapplied("pillarbox", "0001_initial")
    code, report = examine()
    assert code == 1
    assert "✗ database: Not migrated: pillarbox.0001_initial" in report
    assert " queue: " not in report


def test_a_clock_that_is_off_is_said() -> None:
    with freeze(datetime.now(UTC) + timedelta(minutes=5)):
        report = examine()[1]
    assert "! database: Its clock is 5 min ahead of this host's" in report


WEAKEN = {
    "postgresql": ("SET synchronous_commit = off", "SET synchronous_commit = on"),
    "mysql": (
        "SET GLOBAL innodb_flush_log_at_trx_commit = 2",
        "SET GLOBAL innodb_flush_log_at_trx_commit = 1",
    ),
    "sqlite": ("PRAGMA synchronous = OFF", "PRAGMA synchronous = NORMAL"),
}


@pytest.mark.django_db(transaction=True)  # SQLite changes it outside transactions alone
def test_commits_that_do_not_wait_for_the_disk_are_said() -> None:
    weaken, mend = WEAKEN[connection.vendor]
    said = "the mark that a mail was begun may be missing"
    assert said not in examine()[1]
    with connection.cursor() as cursor:
        cursor.execute(weaken)
        try:
            code, report = examine()
        finally:
            cursor.execute(mend)
    assert code == 0
    assert said in report


def test_what_waits_in_the_queue_for_a_person_is_said() -> None:
    for stream, state in (("weekly", State.QUEUED), ("default", State.IN_DOUBT)):
        message = send_email("Hello", "It gets there.", ["ada@example.org"])
        Message.objects.filter(pk=message.pk).update(stream=stream, state=state)
    Pause.objects.create(stream="default")
    code, report = examine()
    assert code == 0
    assert '"weekly", which has left the settings' in report
    assert 'The stream "default" is paused' in report
    assert "1 messages in doubt" in report
    assert "for more than a day" not in report


def test_an_old_doubt_is_said_to_be_old() -> None:
    send_email("Hello", "It gets there.", ["ada@example.org"])
    begun_at = datetime.now(UTC) - timedelta(days=2)
    Message.objects.update(state=State.IN_DOUBT, begun_at=begun_at)
    assert "1 of them wait for a decision for more than a day" in examine()[1]


def test_each_stream_is_told_its_mailer(settings: Settings) -> None:
    streams = {"bulk": {"mailers": ["default"]}}
    settings.PILLARBOX = {"ENGINE": "immediate", "STREAMS": streams}
    code, report = examine()
    assert code == 0
    assert '✓ streams: "bulk" is delivered by the mailer "default"' in report


def test_a_stream_that_leads_nowhere_is_said(settings: Settings) -> None:
    mailers = {"default": {"BACKEND": "pillarbox.backends.queue.EmailBackend"}}
    settings.PILLARBOX = {"ENGINE": "immediate"}
    if compat.HAS_MAILERS:
        settings.MAILERS = mailers
    else:
        settings.PILLARBOX = {"ENGINE": "immediate", "MAILERS": mailers}
    code, report = examine()
    assert code == 1
    assert "(pillarbox.E010)" in report
    assert "✗ streams: The default mail backend queues" in report


def test_a_mailer_that_is_not_defined_is_said(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = "django.core.mail.backends.dummy.EmailBackend"
    if compat.HAS_MAILERS:
        settings.MAILERS = {"default": {"BACKEND": nobody}}
    else:
        settings.EMAIL_BACKEND = nobody
    monkeypatch.delattr(mail, "outbox")  # or every alias leads there
    settings.PILLARBOX = {"ENGINE": "immediate", "STREAMS": {"bulk": {"mailers": ["ses"]}}}
    code, report = examine()
    assert code == 1
    assert "(pillarbox.E012)" in report
    assert "✗ mailer ses: There is no mailer 'ses'." in report


def test_a_hint_is_no_caution(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    hint = Info("Something to know.", hint="Or not.", id="pillarbox.I001")
    monkeypatch.setattr(doctor_settings, "check_settings", lambda: [hint])
    assert "✓ settings: Something to know. (pillarbox.I001) Or not." in examine()[1]


# Mailers


@pytest.fixture
def tls() -> ssl.SSLContext:
    """Return a server's context with a certificate of our own authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def _trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tmp_path / "authority.pem"
    AUTHORITY.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))


def examine_mailer(server: Any, **options: Any) -> tuple[int, list[str]]:
    """Return the exit code and the lines about a mailer that leads to the server."""
    with delivering_to(server, **options):
        code, report = examine()
    lines = report.splitlines()
    return code, [
        f"{line} {after.strip()}" if after.startswith("  →") else line
        for line, after in zip(lines, [*lines[1:], ""], strict=True)
        if " mailer default: " in line
    ]


@pytest.mark.usefixtures("_trusted")
@pytest.mark.parametrize(("option", "way"), [("use_tls", "STARTTLS"), ("use_ssl", "TLS")])
def test_each_step_to_a_mailer_is_timed(tls: ssl.SSLContext, option: str, way: str) -> None:
    with ScriptedServer(tls=tls, starttls=option == "use_tls", auth=True) as server:
        options = {option: True, "username": "shop", "password": "secret"}
        code, (answers, encryption, login, noop) = examine_mailer(server, **options)
    assert code == 0
    assert answers.startswith(f"✓ mailer default: 127.0.0.1:{server.port} answers (")
    assert encryption.startswith(f"✓ mailer default: {way}: TLSv1.")
    assert login.startswith("✓ mailer default: Logged in as shop (")
    assert noop.startswith("✓ mailer default: NOOP: 250 2.0.0 Here I am (")
    assert all(line.endswith(" ms)") for line in (answers, login, noop))
    assert server.verbs[-2:] == ["NOOP", "QUIT"]
    assert not server.envelopes, "nothing is sent"


@pytest.mark.usefixtures("_trusted")
def test_encryption_that_is_offered_in_vain_is_said(tls: ssl.SSLContext) -> None:
    with ScriptedServer(tls=tls, starttls=True) as server:
        code, lines = examine_mailer(server)
    assert code == 0
    assert "! mailer default: Not encrypted, although it offers STARTTLS." in lines[1]
    assert "tls" in lines[1].partition("→")[2].lower()


def test_a_wrong_password_is_said() -> None:
    script = {Step.AUTH: Say("535 5.7.8 Wrong password")}
    with ScriptedServer(script, auth=True) as server:
        code, (line,) = examine_mailer(server, username="shop", password="guess")
    assert code == 1
    assert "SMTPAuthenticationError: (535, b'5.7.8 Wrong password')" in line
    assert "→ Correct username and password." in line


def test_a_certificate_that_nobody_vouches_for_is_said(tls: ssl.SSLContext) -> None:
    with ScriptedServer(tls=tls, starttls=True) as server:
        code, (line,) = examine_mailer(server, use_tls=True)
    assert code == 1
    assert "SSLCertVerificationError" in line
    assert "the certificate must be for this host" in line


def test_a_server_without_what_is_asked_for_is_said() -> None:
    with ScriptedServer() as server:
        code, (line,) = examine_mailer(server, use_tls=True)
    assert code == 1
    assert "SMTPNotSupportedError" in line
    assert "The server does not offer this here" in line


def test_a_server_that_is_not_there_is_said_even_by_a_silent_backend() -> None:
    nobody = Sink("127.0.0.1", closed_port())
    code, (line,) = examine_mailer(nobody, fail_silently=True)
    assert code == 1
    assert "ConnectionRefusedError" in line
    assert "Correct host and port" in line


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (Say("421 4.3.2 Not now"), "421 4.3.2 Not now"),
        (Say("421 Bye", hang_up=True), "421 Bye"),
        (HangUp(), "SMTPServerDisconnected"),
    ],
)
def test_a_server_that_is_not_willing_is_said(action: Say | HangUp, said: str) -> None:
    with ScriptedServer({Step.NOOP: action}) as server:
        code, lines = examine_mailer(server, timeout=5)
    assert code == 1
    assert f"✗ mailer default: NOOP: {said}" in lines[-1]


def test_a_backend_of_another_kind_is_opened() -> None:
    with delivering_by("tests.integration.test_doctor.Opened"):
        code, report = examine()
    assert code == 0
    assert "✓ mailer default: tests.integration.test_doctor.Opened opens" in report


class Opened:
    """A backend that knows how to open and close."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def open(self) -> None:
        """Open."""

    def close(self) -> None:
        """Close."""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Unmade", "It cannot be made: ValueError: no key"),
        ("Unopened", "tests.integration.test_doctor.Unopened: ValueError: wrong key"),
    ],
)
def test_a_backend_that_has_wrong_settings_is_said(name: str, said: str) -> None:
    with delivering_by(f"tests.integration.test_doctor.{name}"):
        code, report = examine()
    assert code == 1
    assert f"✗ mailer default: {said}" in report
    assert "→ Correct its settings." in report


class Unopened(Opened):
    """A backend whose service refuses its key."""

    def open(self) -> None:
        """Open, in vain."""
        raise ValueError("wrong key")


class Unmade:
    """A backend that lacks a setting."""

    def __init__(self, **options: Any) -> None:
        raise ValueError("no key")


# The journey


@pytest.mark.django_db(transaction=True)
def test_a_mail_that_is_refused_is_said_with_the_servers_reply() -> None:
    with ScriptedMailer() as mailer:
        mailer.refuse()
        code, report = examine("--send", "you@example.org")
    assert code == 1
    assert '✗ journey: failed by the mailer "default": 550' in report


@pytest.mark.django_db(transaction=True)
def test_the_mail_may_be_sent_before_the_call_returns() -> None:
    with ScriptedMailer() as mailer:
        code, report = examine("--send", "you@example.org")
    assert code == 0
    assert 'The mailer "default" has sent it' in report
    assert [email.to for email in mailer.outbox] == [["you@example.org"]]


def test_an_address_that_is_none_is_said() -> None:
    code, report = examine("--send", "you\n@example.org")
    assert code == 1
    assert "→ Pass one address, such as you@example.org." in report
    assert not Message.objects.exists()


def test_mailers_that_the_workers_found_down_or_somebody_paused_are_named() -> None:
    later = DatabaseNow(timedelta(seconds=30))
    Circuit.objects.create(
        mailer="smtp", state="open", open_until=later, failures=1, reason="535 5.7.8 (open)"
    )
    Circuit.objects.create(mailer="default", paused=True)
    _, report = examine()
    assert "It is down for the workers (535 5.7.8 (open)); a worker tries it in" in report
    assert "It is paused: nothing goes by it." in report
    assert "pillarbox mailers --resume default" in report
