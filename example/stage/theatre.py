"""Puts up the demo in a temporary directory and takes it down: database, worker, shop, mail."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import sqlite3
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.request import urlopen

import django

from stage.postbox import Postbox
from stage.processes import Child, wait_until
from stage.screen import Screen

EXAMPLE = Path(__file__).parents[1]
MANAGE = str(EXAMPLE / "manage.py")
T = TypeVar("T")

ADMIN = "postmaster@fern-and-quill.example"
FIRST = (
    "Zoë",
    "Ada",
    "José",
    "Mei",
    "Ines",
    "Søren",
    "Noor",
    "Aiko",
    "Łucja",
    "Kofi",
    "Ravi",
    "Åsa",
)
LAST = ("Åkesson", "Brown", "Çelik", "Dürr", "Eze", "Fontané", "Gómez", "Ito", "Kowalski", "Müller")


@dataclass
class Theatre:
    """All that runs during the demo; a context manager that leaves nothing running."""

    screen: Screen
    directory: Path = field(
        default_factory=lambda: Path(tempfile.mkdtemp(prefix="pillarbox-demo-"))
    )
    children: list[Child] = field(default_factory=list)
    password: str = field(default_factory=lambda: secrets.token_urlsafe(9))
    keep_directory: bool = False
    site: str = ""
    is_kept: bool = False

    def __enter__(self) -> Theatre:
        for name in ("mails", "logs"):
            (self.directory / name).mkdir()
        os.environ.update(
            DJANGO_SETTINGS_MODULE=os.environ.get("STAGE_SETTINGS", "stage.settings"),
            SHOP_DATA=str(self.directory),
            SHOP_DEBUG="0",
            SHOP_SECRET_KEY=secrets.token_urlsafe(32),
            STAGE_COMMITS=str(self.commits),
            PYTHONPATH=os.pathsep.join([str(EXAMPLE), os.environ.get("PYTHONPATH", "")]),
            PYTHONUNBUFFERED="1",
        )
        return self

    def __exit__(self, *_: object) -> None:
        for child in reversed(self.children):
            child.stop()
        if not self.keep_directory:
            shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def commits(self) -> Path:
        """Where the shop notes its commits."""
        return self.directory / "commits"

    def open_postbox(self) -> Postbox:
        """Start the mail server; everything after this knows its port."""
        server = self._start(
            "mail server", "-m", "stage.mail_server", str(self.directory / "mails"), talks=True
        )
        postbox = Postbox(server, self.screen.mail)
        os.environ["SHOP_SMTP_PORT"] = str(postbox.port)
        self.screen.done(f"mail server on 127.0.0.1:{postbox.port} (process {server.pid})")
        return postbox

    def fill_database(self, readers: int) -> None:
        """Make the database, the products, the administrator, and the readers but one: Ada."""
        django.setup()  # not before: the settings read the environment made above
        from django.contrib.auth import get_user_model
        from django.core.management import call_command
        from django.db import connection

        call_command("migrate", verbosity=0)
        call_command("loaddata", "catalogue", verbosity=0)
        model = get_user_model()
        admin = {"username": ADMIN, "email": ADMIN, "password": self.password}
        model.objects.create_superuser(**admin, wants_notice=False)
        model.objects.bulk_create(_customer(model, number) for number in range(1, readers))
        with connection.cursor() as cursor:
            mode = cursor.execute("PRAGMA journal_mode").fetchone()[0]
        self.screen.done(f"SQLite {sqlite3.sqlite_version} ({mode}), {readers - 1} customers")

    def start_worker(self) -> None:
        """Start django-q2's cluster and wait until it has done a first task."""
        from django_q.tasks import async_task, result

        logging.getLogger("django-q").setLevel(logging.WARNING)
        worker = self._start("worker", MANAGE, "qcluster")
        task = async_task("math.sqrt", 4)
        self.wait(lambda: result(task) == 2, "the worker", within_s=30)
        self.screen.done(f"worker: manage.py qcluster (process {worker.pid})")

    def start_site(self) -> str:
        """Start the shop, wait until it answers, and return its address."""
        port = _free_port()
        self.site = f"http://127.0.0.1:{port}"
        server = (MANAGE, "runserver", "--noreload", "--insecure", f"127.0.0.1:{port}")
        child = self._start("shop", *server)
        self.wait(lambda: _answers(self.site), "the shop", within_s=30)
        self.screen.done(f"the shop on {self.site}/ (process {child.pid})")
        return self.site

    def open_inbox(self) -> str:
        """Start the pages that show what the mail server has got; return their address."""
        port = _free_port()
        self._start("inbox", "-m", "stage.inbox", str(self.directory / "mails"), str(port))
        self.wait(lambda: _answers(f"http://127.0.0.1:{port}"), "the inbox", within_s=10)
        return f"http://127.0.0.1:{port}"

    def log(self, name: str) -> Path:
        """Return where a child writes its log."""
        return self.directory / "logs" / f"{name.replace(' ', '-')}.log"

    def wait(self, find: Callable[[], T | None], what: str, *, within_s: float) -> T:
        """Wait until ``find`` finds something, and for no longer than the children live."""
        return wait_until(find, what, within_s=within_s, children=self.children)

    def _start(self, name: str, *arguments: str, talks: bool = False) -> Child:
        child = Child(name, list(arguments), dict(os.environ), self.log(name), talks=talks)
        self.children.append(child)
        return child


def _customer(model: Any, number: int) -> Any:
    address = f"reader-{number:04d}@example.org"
    customer = model(
        username=address,
        email=address,
        first_name=FIRST[number % len(FIRST)],
        last_name=LAST[number // len(FIRST) % len(LAST)],
    )
    customer.set_unusable_password()
    return customer


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(address: str) -> bool:
    try:
        with urlopen(address, timeout=2):
            return True
    except OSError:
        return False
