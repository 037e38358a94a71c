"""The wheel in an empty environment: a new project, and a mail that arrives.

Not part of the suite, since it takes packages from the network; `make wheel` runs it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.message import Message as EmailMessage
from pathlib import Path
from typing import Any

import django
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message as MessageHandler

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "pillarbox"

# What the tutorial adds to the settings that `startproject` writes.
SETTINGS = """

import django

INSTALLED_APPS += ["pillarbox"]
DEFAULT_FROM_EMAIL = "Shop <shop@example.org>"
DATABASES["default"]["OPTIONS"] = {
    "init_command": "PRAGMA journal_mode=WAL",
    "transaction_mode": "IMMEDIATE",
}
PILLARBOX = {"ENGINE": "worker"}
_MAILERS = {
    "default": {
        "BACKEND": "pillarbox.backends.queue.EmailBackend",
        "OPTIONS": {"using": "smtp"},
    },
    "smtp": {
        "BACKEND": "pillarbox.backends.smtp.EmailBackend",
        "OPTIONS": {"host": "127.0.0.1", "port": %(port)d},
    },
}
if django.VERSION >= (6, 1):
    MAILERS = _MAILERS
else:
    EMAIL_BACKEND = "pillarbox.backends.queue.EmailBackend"
    PILLARBOX["MAILERS"] = _MAILERS
"""


def run(*command: object, cwd: Path) -> str:
    """Run a command to its end and return what it printed; fail with all of it otherwise."""
    # A newcomer's shell knows nothing of our settings and sources.
    env = {k: v for k, v in os.environ.items() if not k.startswith(("DJANGO_", "PYTHONPATH"))}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}", pytrace=False)
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from the source distribution, as an index would get both."""
    target = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", target, cwd=ROOT)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an environment with nothing in it but the wheel and what the wheel asks for."""
    directory = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", directory, cwd=directory)
    interpreter = directory / "bin" / "python"
    constraint = ROOT / "requirements" / "django-{}.{}.txt".format(*django.VERSION)
    run(interpreter, "-m", "pip", "install", "-q", "-c", constraint, wheel, cwd=directory)
    return interpreter


class Inbox(MessageHandler):
    """Keeps every mail that the server was given."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[EmailMessage] = []

    def handle_message(self, message: Any) -> None:
        self.messages.append(message)


@pytest.fixture
def inbox() -> Iterator[tuple[Inbox, int]]:
    """Run an SMTP server on loopback."""
    handler = Inbox()
    with socket.create_server(("127.0.0.1", 0)) as free:  # aiosmtpd cannot take any free port
        port = free.getsockname()[1]
    server = Controller(handler, hostname="127.0.0.1", port=port)
    server.start()
    try:
        yield handler, port
    finally:
        server.stop()


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    in_wheel = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    in_source = {
        path.relative_to(PACKAGE.parent).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert in_wheel == in_source
    assert "pillarbox/py.typed" in in_wheel
    assert "pillarbox/migrations/0001_initial.py" in in_wheel


def test_the_core_needs_django_alone(python: Path) -> None:
    installed = run(python, "-m", "pip", "list", "--format=freeze", cwd=python.parent)
    names = {line.split("==")[0].lower() for line in installed.split()}
    assert names - {"pip", "setuptools"} == {"asgiref", "django", "django-pillarbox", "sqlparse"}


def test_a_new_project_sends_its_first_mail(
    python: Path, inbox: tuple[Inbox, int], tmp_path: Path
) -> None:
    handler, port = inbox
    run(python, "-m", "django", "startproject", "shop", tmp_path, cwd=tmp_path)
    with (tmp_path / "shop" / "settings.py").open("a") as settings:
        settings.write(SETTINGS % {"port": port})

    def manage(*arguments: str) -> str:
        return run(python, "manage.py", *arguments, cwd=tmp_path)

    manage("check", "--fail-level", "WARNING")
    manage("makemigrations", "--check", "--dry-run")
    manage("migrate", "--verbosity", "0")
    manage(
        "shell",
        "-c",
        "from django.core.mail import send_mail; from pillarbox import send_email;"
        "send_email('Welcome', 'Grüße {{ name }}', ['you@example.org']);"
        "send_mail('Reset', 'A link', None, ['me@example.org'])",
    )
    assert handler.messages == []

    manage("pillarbox", "deliver")

    assert {(m["To"], m["Subject"]) for m in handler.messages} == {
        ("you@example.org", "Welcome"),
        ("me@example.org", "Reset"),
    }
    welcome = next(m for m in handler.messages if m["Subject"] == "Welcome")
    payload = welcome.get_payload(decode=True)
    assert isinstance(payload, bytes)
    assert payload.decode().rstrip() == "Grüße {{ name }}"
    states = manage(
        "shell",
        "-c",
        "from pillarbox.models import Message;"
        "print('states:', *Message.objects.values_list('state', flat=True))",
    )
    assert "states: sent sent" in states
