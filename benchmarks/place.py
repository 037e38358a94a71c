"""Where one measurement happens: what every process of it is told, through its environment."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
VARIABLE = "PILLARBOX_BENCHMARK"


@dataclass(frozen=True)
class Place:
    """The servers' addresses, the subject's name, and how many connections it may open."""

    subject: str
    folder: str
    database: str
    database_port: int
    redis_port: int
    smtp_port: int = 0
    connections: int = 0
    """To the mail server, of all workers together; 0: as many as the subject finds best here."""
    certificate: str = ""
    """A file: the mail server wants STARTTLS and AUTH, and this is its certificate."""
    vendor: str = "postgresql"
    """The kind of database: ``postgresql``, or ``sqlite`` with a file in the folder."""

    @classmethod
    def from_environment(cls) -> Place:
        """Return the place that the runner has put this process into."""
        return cls(**json.loads(os.environ[VARIABLE]))

    def environment(self) -> dict[str, str]:
        """Return the environment of a process that is to work here."""
        env = {
            **os.environ,
            VARIABLE: json.dumps(dataclasses.asdict(self)),
            "DJANGO_SETTINGS_MODULE": "benchmarks.settings",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
            "PYTHONWARNINGS": "ignore",
        }
        return {**env, "SSL_CERT_FILE": self.certificate} if self.certificate else env

    @property
    def sqlite_file(self) -> Path:
        """Where SQLite keeps the database."""
        return Path(self.folder) / f"{self.database}.sqlite3"

    def database_settings(self) -> dict[str, Any]:
        """Return the alias in ``DATABASES``, SQLite's as docs/how-to/databases.md has it."""
        if self.vendor == "sqlite":
            options = {
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
                "transaction_mode": "IMMEDIATE",
                "timeout": 20,
            }
            name = str(self.sqlite_file)
            return {"ENGINE": "django.db.backends.sqlite3", "NAME": name, "OPTIONS": options}
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": self.database,
            "HOST": "127.0.0.1",
            "PORT": self.database_port,
            "USER": "postgres",
        }

    def smtp_options(self) -> dict[str, Any]:
        """Return the options of Django's SMTP backend, as ``MAILERS`` has them."""
        options: dict[str, Any] = {"host": "127.0.0.1", "port": self.smtp_port, "timeout": 60}
        login = {"use_tls": True, "username": "shop", "password": "of no worth"}
        return {**options, **login} if self.certificate else options

    def redis_url(self, number: int = 0) -> str:
        """Return the address of one of the Redis server's databases."""
        return f"redis://127.0.0.1:{self.redis_port}/{number}"


def manage(*arguments: str) -> list[str]:
    """Return the command line of a Django management command."""
    return [sys.executable, "-m", "django", *arguments]


def child(*arguments: str) -> list[str]:
    """Return the command line of `benchmarks.child`."""
    return [sys.executable, "-m", "benchmarks.child", *arguments]
