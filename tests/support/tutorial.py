"""A reader of the tutorial: writes its files, runs its commands, and stops what it has started."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import django

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "tutorial.md"
PORT = "8025"

_STEP = re.compile(
    r"^```(\w+)\n(.*?)^```$|^<!-- the reader (stops) the mail server -->$", re.MULTILINE | re.DOTALL
)


class Reader:
    """Does what the tutorial says in a directory of its own, with this interpreter's packages.

    The mail server listens on ``port`` in the place of the tutorial's.
    """

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.port = port
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.options: dict[str, Any] = {
            "cwd": directory,
            "env": {
                **os.environ,
                "DJANGO_SETTINGS_MODULE": "shop.settings",
                "PYTHONUNBUFFERED": "1",
                "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(directory)]),
            },
        }

    def read(self) -> Iterator[tuple[str, str]]:
        """Follow the tutorial from block to block; yield each step and what it printed."""
        for language, code, verb in _STEP.findall(TUTORIAL.read_text()):
            if verb:
                self.stop("aiosmtpd")
            elif language == "python":
                yield code, self._enter(code)
            else:
                for line in code.splitlines():
                    command = line.removeprefix("$ ")
                    yield command, self._run(command)

    def _enter(self, code: str) -> str:
        """Type it into the shell, or write it into the file, that its first line names."""
        where = code.partition("\n")[0].removeprefix("# ")
        if where == "python manage.py shell":
            return self.call("manage.py", "shell", "-v", "0", "-c", code)
        path, _, versions = where.partition(", on Django ")
        if not versions or "{}.{}".format(*django.VERSION) in versions.split(" and "):
            with (self.directory / path).open("a") as file:
                file.write(f"\n\n{self._with_port(code)}")
        return ""

    def _run(self, command: str) -> str:
        """Run a command to its end, or start one that has none."""
        program, *words = self._with_port(command).split()
        if program in {".", "pip"} or "venv" in words:
            return ""  # the environment is there
        if program == "django-admin":
            words = ["-m", "django", *words]
        for name in ("aiosmtpd", "qcluster"):
            if name in words:
                self._start(name, words)
                return ""
        return self.call(*words)

    def _with_port(self, text: str) -> str:
        return text.replace(PORT, str(self.port))

    def call(self, *words: str) -> str:
        """Run Python to its end and return what it printed. Raise AssertionError if it failed."""
        done = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, check=False, **self.options
        )
        assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _start(self, name: str, words: list[str]) -> None:
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *words], stdout=log, stderr=log, **self.options
            )

    def printed(self, name: str) -> str:
        """Return what a process in the background has printed."""
        return (self.directory / f"{name}.log").read_text()

    def stop(self, name: str) -> None:
        """Press Ctrl-C until it has ended."""
        process = self.processes.pop(name)
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)


@contextmanager
def reading(directory: Path) -> Iterator[Reader]:
    """Give a reader on a free port, and stop in the end what it has started."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    reader = Reader(directory, port)
    try:
        yield reader
    finally:
        for name in list(reader.processes):
            reader.stop(name)
