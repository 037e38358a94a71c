"""The servers that some tests need: where they are, and whether they answer.

`python -m tests.services` lists them. Imports no Django: the settings take their addresses here.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

# psycopg and mysqlclient name some of these otherwise than Django does; see the probes.
POSTGRESQL: dict[str, Any] = {
    "HOST": os.environ.get("PGHOST", "127.0.0.1"),
    "PORT": int(os.environ.get("PGPORT", "5432")),
    "USER": os.environ.get("PGUSER", "postgres"),
    "PASSWORD": os.environ.get("PGPASSWORD", ""),
}
MARIADB: dict[str, Any] = {
    "HOST": os.environ.get("MARIADB_HOST", "127.0.0.1"),
    "PORT": int(os.environ.get("MARIADB_PORT", "3306")),
    "USER": os.environ.get("MARIADB_USER", "root"),
    "PASSWORD": os.environ.get("MARIADB_PASSWORD", ""),
}
REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")
RABBITMQ_URL = os.environ.get("RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672//")


def program(name: str) -> str | None:
    """Return where a program is. Debian keeps some where an ordinary user's PATH does not look."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin")


def postgres_programs() -> Path:
    """Return the folder of PostgreSQL's server programs; Debian has one for each version."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise FileNotFoundError("no initdb and postgres; they come with PostgreSQL's server")


SMTP_SINK = program("smtp-sink")
REDIS_SERVER = program("redis-server")  # for the tests that break one of their own

TIMEOUT_S = 3
REASON = "needs the service"  # every skip for a missing service starts so; conftest counts them


def _postgresql() -> None:
    import psycopg

    psycopg.connect(
        host=POSTGRESQL["HOST"],
        port=POSTGRESQL["PORT"],
        user=POSTGRESQL["USER"],
        password=POSTGRESQL["PASSWORD"],
        dbname="postgres",
        connect_timeout=TIMEOUT_S,
    ).close()


def _mariadb() -> None:
    import MySQLdb

    MySQLdb.connect(
        host=MARIADB["HOST"],
        port=MARIADB["PORT"],
        user=MARIADB["USER"],
        password=MARIADB["PASSWORD"],
        connect_timeout=TIMEOUT_S,
    ).close()


def _redis() -> None:
    import redis

    with redis.Redis.from_url(REDIS_URL, socket_connect_timeout=TIMEOUT_S) as client:
        client.ping()


def _rabbitmq() -> None:
    from kombu.connection import Connection

    with Connection(RABBITMQ_URL, connect_timeout=TIMEOUT_S) as connection:
        connection.connect()


def _smtp_sink() -> None:
    if SMTP_SINK is None:
        raise FileNotFoundError("no such program; it comes with Postfix")


def _mariadb_server() -> None:
    importlib.import_module("MySQLdb")
    for name in ("mariadbd", "mariadb-install-db"):
        if program(name) is None:
            raise FileNotFoundError(f"no {name}; it comes with MariaDB's server")


def _psycopg_pool() -> None:
    importlib.import_module("psycopg_pool")


def _redis_server() -> None:
    if REDIS_SERVER is None:
        raise FileNotFoundError("no such program; it comes with Redis")


@dataclass(frozen=True)
class Service:
    """A server or program, its address to show, and a probe that raises where it is missing."""

    where: str
    probe: Callable[[], object]


SERVICES = {
    "postgresql": Service("{HOST}:{PORT} as {USER}".format_map(POSTGRESQL), _postgresql),
    "mariadb": Service("{HOST}:{PORT} as {USER}".format_map(MARIADB), _mariadb),
    "redis": Service(REDIS_URL, _redis),
    "rabbitmq": Service(RABBITMQ_URL, _rabbitmq),
    "postgres-server": Service("on PATH or in /usr/lib/postgresql", postgres_programs),
    "mariadbd": Service("on PATH or in /usr/sbin", _mariadb_server),
    "psycopg-pool": Service("installed with pip", _psycopg_pool),
    "smtp-sink": Service(SMTP_SINK or "on PATH", _smtp_sink),
    "redis-server": Service(REDIS_SERVER or "on PATH", _redis_server),
}


@cache
def missing(name: str) -> str | None:
    """Return why the service cannot be used, or None where it can."""
    try:
        SERVICES[name].probe()
    except Exception as error:  # noqa: BLE001  # every library has its own classes for this
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return None


def require(*names: str) -> None:
    """Skip the test that calls this unless the services answer.

    With PILLARBOX_REQUIRE_SERVICES=1, as in continuous integration, the test fails instead.
    """
    for name in names:
        if problem := missing(name):
            reason = f"{REASON} {name} ({SERVICES[name].where}): {problem}"
            if os.environ.get("PILLARBOX_REQUIRE_SERVICES") == "1":
                pytest.fail(reason, pytrace=False)
            pytest.skip(reason)


def main() -> int:
    """Print the state of every service; 1 if any of those asked for is missing."""
    names = sys.argv[1:] or list(SERVICES)
    for name in names:
        print(f"{name:<16}{SERVICES[name].where:<40}{missing(name) or 'ok'}")
    return int(any(missing(name) for name in names))


if __name__ == "__main__":
    sys.exit(main())
