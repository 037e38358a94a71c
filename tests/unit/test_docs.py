"""The documentation says what the code does: tables are compared, links followed, blocks compiled.

The tutorial is really gone through, with a worker and a mail server.
"""

from __future__ import annotations

import ast
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
import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])

FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks in one language."""
    return [code for _, kind, code in FENCE.findall(page.read_text()) if kind == language]


# ------------------------------------------------------------------------------- the tutorial


class Reader:
    """Does what the tutorial says, in a directory of its own."""

    PORT = 8025

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.port = port
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("PILLARBOX_TEST")}
        self.env["DJANGO_SETTINGS_MODULE"] = "shop.settings"
        self.env["PYTHONUNBUFFERED"] = "1"
        self.env["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(directory)])

    def read(self, page: Path) -> Iterator[str]:
        """Follow the page from block to block; yield what each printed."""
        steps = re.compile(rf"{FENCE.pattern}|^<!-- the reader (\w+) the mail server -->$", re.M | re.S)
        for _, language, code, word in steps.findall(page.read_text()):
            if word:
                self.stop("aiosmtpd")
            elif language == "python":
                yield self.enter(code)
            else:
                for line in code.splitlines():
                    yield self.run(line.removeprefix("$ "))

    def enter(self, code: str) -> str:
        """Write a file, or what goes into the shell."""
        where = code.partition("\n")[0].removeprefix("# ")
        if where == "python manage.py shell":
            return self.call(sys.executable, "manage.py", "shell", "-v", "0", "-c", code)
        path, _, versions = where.partition(", on Django ")
        if versions and not _runs_on(versions):
            return ""
        with (self.directory / path).open("a") as file:
            file.write("\n\n" + self.with_port(code))
        return ""

    def run(self, command: str) -> str:
        """Run a command to its end, or start one that has none."""
        words = self.with_port(command).split()
        if words[0] in {".", "pip"} or "venv" in words:
            return ""  # the environment is there
        words = [sys.executable, *(words[1:] if words[0] == "python" else ["-m", *words])]
        words = [word.replace("django-admin", "django") for word in words]
        if "aiosmtpd" in words or "qcluster" in words:
            self.start("aiosmtpd" if "aiosmtpd" in words else "qcluster", words)
            return ""
        return self.call(*words)

    def with_port(self, text: str) -> str:
        return text.replace(str(self.PORT), str(self.port))

    def call(self, *words: str) -> str:
        done = subprocess.run(
            words, cwd=self.directory, env=self.env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start(self, name: str, words: list[str]) -> None:
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                words, cwd=self.directory, env=self.env, stdout=log, stderr=log
            )

    def printed(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()

    def stop(self, name: str) -> None:
        process = self.processes.pop(name)
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)


def _runs_on(versions: str) -> bool:
    return "{}.{}".format(*django.VERSION) in versions.split(" and ")


def wait_until(is_so: Any, within_s: float = 30) -> None:
    until = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.1)


@contextmanager
def reader(directory: Path) -> Iterator[Reader]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    reader = Reader(directory, port)
    try:
        yield reader
    finally:
        for name in list(reader.processes):
            reader.stop(name)


@pytest.mark.slow
def test_the_tutorial_works(tmp_path: Path) -> None:
    with reader(tmp_path) as person:
        said = []
        for output in person.read(DOCS / "tutorial.md"):
            said.append(output)
            if "qcluster" in person.processes and len(said) and "Welcome" not in person.printed("aiosmtpd"):
                wait_until(lambda: "Subject: Password reset" in person.printed("aiosmtpd"))
    print(said)
    print(person.printed("qcluster"))
