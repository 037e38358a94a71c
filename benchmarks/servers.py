"""The servers of one run, all on loopback and in a temporary directory: PostgreSQL and Redis."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import redis

SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "max_connections": "200",
}
"""PostgreSQL's settings; all others are its defaults."""


def program(name: str) -> str:
    """Return where a server's program is. Raise FileNotFoundError where it is not installed."""
    folders = [str(f) for f in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", *folders])
    found = shutil.which(name, path=path)
    if found is None:
        raise FileNotFoundError(f"{name} is not installed, and the benchmark needs it.")
    return found


def free_port() -> int:
    """Return a port of loopback that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def as_user(name: str) -> str | None:
    """Return the user to run a server as: these refuse to be root's."""
    return name if os.geteuid() == 0 else None


@contextmanager
def folder(user: str | None = None) -> Iterator[Path]:
    """Make a directory on a real disk (/var/tmp is never in memory) and remove it."""
    with tempfile.TemporaryDirectory(prefix="pillarbox-bench-", dir="/var/tmp") as name:
        if user is not None:
            shutil.chown(name, user)
        yield Path(name)


@contextmanager
def process(command: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server while the block lasts; stop it kindly, and for good if that takes long."""
    popen = subprocess.Popen(command, stdin=subprocess.DEVNULL, **options)
    try:
        yield popen
    finally:
        popen.terminate()
        try:
            popen.wait(20)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait(20)


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL server of our own."""

    port: int
    pid: int

    def run(self, *statements: str, database: str = "postgres") -> None:
        """Run statements outside of a transaction."""
        with self.connect(database) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """Return a connection in autocommit."""
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname=database, autocommit=True
        )

    def fresh(self, database: str, template: str) -> None:
        """Make the database anew from the template, and start with nothing left to write."""
        self.run(
            f"DROP DATABASE IF EXISTS {database} WITH (FORCE)",
            # File by file: a table of millions of rows would else go through the log.
            f"CREATE DATABASE {database} TEMPLATE {template} STRATEGY file_copy",
            "CHECKPOINT",
        )


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Run a PostgreSQL with `SETTINGS`."""
    user = as_user("postgres")
    with folder(user) as place:
        data = str(place / "data")
        make = [program("initdb"), "-D", data, "-U", "postgres", "--auth=trust", "-E", "UTF8"]
        subprocess.run(make, check=True, user=user, cwd="/", stdout=subprocess.DEVNULL)
        port = free_port()
        options = [f"-c{name}={value}" for name, value in SETTINGS.items()]
        command = [program("postgres"), "-D", data, "-p", str(port), "-h", "127.0.0.1"]
        command += ["-k", str(place), *options]
        with (place.parent / f"{place.name}.log").open("wb") as log:
            Path(log.name).unlink()
            running = process(command, user=user, cwd="/", stdout=log, stderr=log)
            with running as popen:
                server = Postgres(port, popen.pid)
                _until(lambda: server.run("SELECT 1"), psycopg.OperationalError)
                yield server
                popen.send_signal(signal.SIGINT)  # the fast end: it throws its clients out


@contextmanager
def redis_server() -> Iterator[tuple[redis.Redis, int]]:
    """Run a Redis with its default persistence; yield a client and its process id."""
    with folder() as place:
        port = free_port()
        command = [program("redis-server"), "--port", str(port), "--bind", "127.0.0.1"]
        command += ["--dir", str(place)]
        with process(command, stdout=subprocess.DEVNULL) as popen:
            client = redis.Redis(port=port)
            _until(client.ping, redis.ConnectionError)
            with contextlib.closing(client):
                yield client, popen.pid


def _until(attempt: Any, error: type[Exception], *, timeout_s: float = 30) -> None:
    give_up_at = time.monotonic() + timeout_s
    while True:
        try:
            attempt()
        except error:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.05)
        else:
            return
