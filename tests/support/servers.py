"""Database servers of a test's own, to be stopped, killed and started again at will.

    with postgresql() as server:
        server.restart(signal.SIGQUIT)
        server.settings()  # an entry of DATABASES

In a temporary directory, on a free port of 127.0.0.1; nobody else's server is touched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import services

DATABASE = "pillarbox"


@dataclass
class Server:
    """A server process in a session of its own; ``fast`` and ``crash`` are signals that end it."""

    engine: str
    command: Sequence[str]
    port: int
    user: str
    run_as: str | None
    fast: signal.Signals
    crash: signal.Signals
    options: dict[str, Any] = field(default_factory=dict)
    host: str = "127.0.0.1"
    popen: subprocess.Popen[bytes] | None = None

    def settings(self, *, port: int | None = None, **options: Any) -> dict[str, Any]:
        """Return an entry of DATABASES; ``port`` is that of a proxy before the server."""
        return {
            "ENGINE": f"django.db.backends.{self.engine}",
            "NAME": DATABASE,
            "HOST": self.host,
            "PORT": port or self.port,
            "USER": self.user,
            "PASSWORD": "",
            "OPTIONS": {**self.options, **options},
        }

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        self.popen = subprocess.Popen(
            self.command,
            user=self.run_as,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        until = time.monotonic() + 60
        while True:
            try:
                self.query("SELECT 1", database=None)
            except Exception:
                if time.monotonic() > until or self.popen.poll() is not None:
                    raise
                time.sleep(0.05)
            else:
                return

    def stop(self, number: signal.Signals) -> None:
        """End it by a signal, ``fast`` or ``crash``, and wait for its end."""
        assert self.popen is not None
        self.popen.send_signal(number)
        self.popen.wait(60)

    def restart(self, number: signal.Signals, *, away_s: float = 0.5) -> None:
        """End it by a signal and start it again after a while."""
        self.stop(number)
        time.sleep(away_s)
        self.start()

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Let all its processes stand still while the block lasts: it takes, and never answers."""
        assert self.popen is not None
        # PostgreSQL's children have sessions of their own.
        pids = [self.popen.pid, *_children(self.popen.pid)]
        _signal(pids, signal.SIGSTOP)
        try:
            yield
        finally:
            _signal(pids, signal.SIGCONT)

    def query(self, sql: str, *, database: str | None = DATABASE) -> list[tuple[Any, ...]]:
        """Run one statement on a connection of its own and return its rows."""
        with contextlib.closing(self.connect(database)) as connection:
            cursor = connection.cursor()
            cursor.execute(sql)
            return list(cursor.fetchall()) if cursor.description else []

    def connect(self, database: str | None = DATABASE) -> Any:
        """Return a connection of the database's own library, which commits each statement."""
        where: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "connect_timeout": 5,
        }
        if self.engine == "postgresql":
            import psycopg

            return psycopg.connect(dbname=database or "postgres", autocommit=True, **where)
        import MySQLdb

        return MySQLdb.connect(database=database or "mysql", autocommit=True, **where)

    def end_sessions(self) -> int:
        """End every session of the database but our own; return how many there were."""
        if self.engine == "postgresql":
            ended = self.query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                f"WHERE datname = '{DATABASE}' AND pid <> pg_backend_pid()"
            )
            return len(ended)
        others = self.query(
            "SELECT id FROM information_schema.processlist "
            f"WHERE db = '{DATABASE}' AND id <> CONNECTION_ID()"
        )
        for (number,) in others:
            with contextlib.suppress(Exception):  # it has ended by itself meanwhile
                self.query(f"KILL CONNECTION {number}")
        return len(others)


def _children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@contextmanager
def postgresql() -> Iterator[Server]:
    """Run a PostgreSQL. It syncs no file: the tests kill the server and not the machine."""
    programs = services.postgres_programs()
    with _directory(_as_user("postgres")) as (folder, user):
        data = folder / "data"
        _run(user, programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync")
        port = _free_port()
        arguments = ["-D", data, "-k", folder, "-p", port, "-c", "fsync=off"]
        arguments += ["-c", "listen_addresses=127.0.0.1", "-c", "max_connections=50"]
        command = [str(part) for part in (programs / "postgres", *arguments)]
        server = Server(
            *("postgresql", command, port, "postgres", user, signal.SIGINT, signal.SIGQUIT)
        )
        with _running(server):
            yield server


@contextmanager
def mariadb() -> Iterator[Server]:
    """Run a MariaDB. It syncs no file: the tests kill the server and not the machine."""
    with _directory(_as_user("mysql")) as (folder, user):
        data = folder / "data"
        where = ["--no-defaults", f"--datadir={data}"]
        root = "--auth-root-authentication-method=normal"
        _install(user, data, services.program("mariadb-install-db"), *where, root, "--skip-test-db")
        port = _free_port()
        command = [services.program("mariadbd"), *where, f"--port={port}"]
        command += [f"--socket={folder / 'sock'}", "--bind-address=127.0.0.1"]
        command += ["--innodb-flush-log-at-trx-commit=2", f"--pid-file={folder / 'pid'}"]
        server = Server(
            *("mysql", [str(part) for part in command], port, "root", user),
            *(signal.SIGTERM, signal.SIGKILL, {"charset": "utf8mb4"}),
        )
        with _running(server):
            yield server


def _run(user: str | None, *command: object) -> None:
    words = [str(part) for part in command]
    done = subprocess.run(words, user=user, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{words[0]} ended with {done.returncode}: {done.stdout}{done.stderr}")


def _install(user: str | None, data: Path, *command: object) -> None:
    """Make a data directory; several servers that start at once may lack a kernel's resources."""
    for trial in range(3):
        try:
            _run(user, *command)
            return
        except RuntimeError:
            if trial == 2:
                raise
            shutil.rmtree(data, ignore_errors=True)
            time.sleep(2)


@contextmanager
def _running(server: Server) -> Iterator[None]:
    try:
        server.start()
        server.query(f"CREATE DATABASE {DATABASE}", database=None)
        yield
    finally:
        if server.popen is not None and server.popen.poll() is None:
            server.stop(server.crash)


def _as_user(name: str) -> str | None:
    """Return the user to run a server as: these refuse to be root's."""
    return name if os.geteuid() == 0 else None


@contextmanager
def _directory(user: str | None) -> Iterator[tuple[Path, str | None]]:
    folder = Path(tempfile.mkdtemp(prefix="pillarbox-"))
    try:
        if user is not None:
            shutil.chown(folder, user)
        yield folder, user
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port
