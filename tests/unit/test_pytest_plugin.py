"""A user's test project, run as its author runs it: by Django's runner and by pytest-django.

Its settings deliver to a real SMTP server, which none of its tests may ever reach.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import pillarbox
from pillarbox import compat
from tests.support.smtp_sink import Sink, smtp_sink

SETTINGS = """
from pathlib import Path
SECRET_KEY = "x"
USE_TZ = True
DATABASES = {"default": {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": Path(__file__).with_name("db.sqlite3"),
    "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20},
    "TEST": {"NAME": Path(__file__).with_name("test.sqlite3")},
}}
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "pillarbox"]
DEFAULT_FROM_EMAIL = "shop@example.org"
"""

TWO_MAILERS = """
TWO = {
    "default": {"BACKEND": "pillarbox.backends.queue.EmailBackend", "OPTIONS": {"using": "smtp"}},
    "smtp": {
        "BACKEND": "pillarbox.backends.smtp.EmailBackend",
        "OPTIONS": {"host": "127.0.0.1", "port": %(port)d, "timeout": 10},
    },
}
PILLARBOX = {"ENGINE": "worker", "STREAMS": {"bulk": {"mailers": ["smtp"]}}}
"""

MODES = {
    # What the documentation says for 5.2 and 6.0, and works on 6.1 too.
    "email_backend": TWO_MAILERS
    + """
EMAIL_BACKEND = "pillarbox.backends.queue.EmailBackend"
PILLARBOX["MAILERS"] = TWO
""",
    # Nothing but the project's present backend.
    "present_backend": """
EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
EMAIL_HOST, EMAIL_PORT, EMAIL_TIMEOUT = "127.0.0.1", %(port)d, 10
PILLARBOX = {"ENGINE": "worker", "STREAMS": {"bulk": {}}}
""",
}
if compat.HAS_MAILERS:
    MODES["mailers"] = TWO_MAILERS + "\nMAILERS = TWO\n"

UNITTEST = """
from django.core import mail
from django.core.mail import EmailMessage, send_mail
from django.test import TestCase, TransactionTestCase, override_settings

from pillarbox import send_email, send_emails, testing
from pillarbox.delivery.drain import drain


class Everything:
    def test_every_way_of_sending(self):
        send_email("send_email", "Hi", ["ada@example.org"])
        send_email("a stream with a mailer", "Hi", ["ada@example.org"], stream="bulk")
        send_emails([EmailMessage("send_emails", "Hi", to=["ada@example.org"])])
        send_mail("send_mail", "Hi", None, ["ada@example.org"])
        self.assertEqual([email.subject for email in mail.outbox], ["send_mail"])
        self.assertEqual(testing.deliver(), {"sent": 3})
        self.assertEqual(len(mail.outbox), 4)
        testing.assert_sent(to="ada@example.org", count=3)


class InATransaction(Everything, TestCase):
    pass


class Committed(Everything, TransactionTestCase):
    def test_the_drain_and_its_threads(self):
        send_email("send_email", "Hi", ["ada@example.org"])
        self.assertEqual(drain(), {"sent": 1})
        self.assertEqual(len(mail.outbox), 1)

    def test_the_immediate_engine(self):
        with self.settings(PILLARBOX={"ENGINE": "immediate"}):
            send_email("send_email", "Hi", ["ada@example.org"])
        self.assertEqual(len(mail.outbox), 1)
"""

CONTROL = """
import django
django.setup()
from pillarbox import send_email
from pillarbox.delivery.inline import deliver_inline
send_email("Outside of any test", "Hi", ["ada@example.org"])
print(deliver_inline())
"""

PYTEST = """
from datetime import datetime, timedelta, timezone

import pytest
from django.core import mail

from pillarbox import send_email, testing


@pytest.mark.django_db
def test_deliver(pillarbox_deliver, mailoutbox):
    send_email("Hello", "Hi", ["ada@example.org"])
    assert pillarbox_deliver() == {"sent": 1}
    assert [email.subject for email in mailoutbox] == ["Hello"]


@pytest.mark.django_db
def test_a_script(pillarbox_deliver, pillarbox_mailer, mailoutbox):
    pillarbox_mailer.refuse(550, for_="ada@example.org")
    send_email("Hello", "Hi", ["ada@example.org"])
    assert pillarbox_deliver() == {"failed": 1}
    testing.assert_failed(to="ada@example.org", count=1)
    assert mailoutbox == []


@pytest.mark.django_db(transaction=True)
def test_time(pillarbox_deliver, pillarbox_mailer, pillarbox_freeze):
    clock = pillarbox_freeze(datetime(2026, 3, 1, tzinfo=timezone.utc))
    pillarbox_mailer.defer(451)
    send_email("Hello", "Hi", ["ada@example.org"])
    assert pillarbox_deliver() == {"retry": 1}
    assert pillarbox_deliver() == {}
    clock.move(timedelta(minutes=1))
    assert pillarbox_deliver() == {"sent": 1}


def test_after_it_nothing_is_left_frozen_or_scripted():
    from pillarbox.delivery import routes
    from pillarbox.models import clock

    assert clock.frozen_at is None
    assert routes.override is None
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def sink() -> object:
    with smtp_sink() as server:
        yield server


@pytest.fixture
def project(tmp_path: Path) -> Run:
    """Return a function that runs Python in the folder of a user's project."""
    src = Path(pillarbox.__file__).parents[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}

    def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        paths = os.pathsep.join([str(tmp_path), str(src)])
        env = {**kept, "PYTHONPATH": paths, "DJANGO_SETTINGS_MODULE": "project_settings"}
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


def plugin_options() -> list[str]:
    """Return what loads the plugin where the package is not installed but on the path."""
    if entry_points(group="pytest11", name="pillarbox"):
        return []
    return ["-p", "pillarbox.pytest_plugin"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_no_test_of_a_user_ever_reaches_the_real_server(
    sink: Sink, project: Run, tmp_path: Path, mode: str
) -> None:
    (tmp_path / "project_settings.py").write_text(SETTINGS + MODES[mode] % {"port": sink.port})
    (tmp_path / "test_shop.py").write_text(UNITTEST)

    by_django = project("-m", "django", "test", "--no-input", "test_shop")
    assert "Ran 4 tests" in by_django.stderr
    by_pytest = project("-m", "pytest", "-q", "-p", "no:cacheprovider", *plugin_options())
    assert "4 passed" in by_pytest.stdout
    assert sink.connections == 0
    assert sink.received == []

    project("-m", "django", "migrate", "--verbosity", "0")
    project("-c", CONTROL)
    assert len(sink.received) == 1, "outside of tests the same settings deliver"


@pytest.mark.slow
def test_the_fixtures_deliver_script_and_freeze(project: Run, tmp_path: Path) -> None:
    (tmp_path / "project_settings.py").write_text(SETTINGS + MODES["present_backend"] % {"port": 1})
    (tmp_path / "test_shop.py").write_text(PYTEST)
    done = project("-m", "pytest", "-q", "-p", "no:cacheprovider", *plugin_options())
    assert "4 passed" in done.stdout


def test_the_plugin_is_loaded_without_settings_and_without_models(
    project: Run, tmp_path: Path
) -> None:
    (tmp_path / "test_plain.py").write_text(
        "import sys\n"
        "def test_nothing_of_django_is_imported():\n"
        "    assert 'pillarbox.pytest_plugin' in sys.modules\n"
        "    assert 'pillarbox.models' not in sys.modules\n"
        "    assert 'django.db' not in sys.modules\n"
    )
    done = project("-m", "pytest", "-q", "-p", "no:django", *plugin_options(), "test_plain.py")
    assert "1 passed" in done.stdout
    shown = project("-m", "pytest", "--fixtures", "-q", "-p", "no:django", *plugin_options())
    for name in ("pillarbox_deliver", "pillarbox_mailer", "pillarbox_freeze"):
        assert name in shown.stdout
