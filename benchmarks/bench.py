"""What a scenario works with: the run's servers, a fresh database a measurement, workers."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import redis

from benchmarks.meter import Meter
from benchmarks.place import ROOT, Place, child
from benchmarks.servers import Postgres
from benchmarks.subjects.base import Subject

PATIENCE_S = 30.0
"""So long may nothing happen before a subject is said not to run."""
PREPARE_PATIENCE_S = 3600.0
"""So long may it take to make the tables, and to fill them with millions of rows."""
LINES_SHOWN = 6


class DoesNotRun(Exception):
    """A subject could not be measured; the text says what it said itself."""


@dataclass
class Bench:
    """One run: its servers, and how much of each scenario's work is done in it."""

    postgres: Postgres
    redis: redis.Redis
    redis_port: int
    redis_pid: int
    folder: Path
    certificate: str
    share: float = 1.0
    _templates: dict[str, Place] = field(default_factory=dict)

    def amount(self, count: int) -> int:
        """Return how many mails to measure with where a full run has ``count``."""
        return max(40, round(count * self.share))

    def server_versions(self) -> dict[str, str]:
        """Return the servers' versions by their names."""
        with self.postgres.connect() as connection:
            number = connection.info.server_version
        told: Any = self.redis.info("server")
        return {
            "PostgreSQL": f"{number // 10000}.{number % 10000}",
            "Redis server": told["redis_version"],
        }

    def place(self, subject: Subject, **more: Any) -> Place:
        """Return the place of one measurement: the tables are there, the queue is empty."""
        folder = self.folder / subject.name
        shutil.rmtree(folder, ignore_errors=True)  # a lock that a killed worker has left
        folder.mkdir()
        place = Place(
            subject=subject.name,
            folder=str(folder),
            database="measured",
            database_port=self.postgres.port,
            redis_port=self.redis_port,
            vendor=subject.vendor,
            **more,
        )
        self.redis.flushall()
        template = self._template(place)
        if place.vendor == "sqlite":
            shutil.copy(template.sqlite_file, place.sqlite_file)
        else:
            self.postgres.fresh(place.database, template.database)
        return place

    def _template(self, place: Place) -> Place:
        """Return where the subject's tables are, with what it has put into them beforehand."""
        name = f"template_{place.subject}"
        if name not in self._templates:
            template = dataclasses.replace(place, database=name, folder=str(self.folder))
            if place.vendor == "postgresql":
                self.postgres.run(f"CREATE DATABASE {name}")
            self.child(template, "prepare", timeout_s=PREPARE_PATIENCE_S)
            self._templates[name] = template
        return self._templates[name]

    def settle(self, place: Place) -> None:
        """Leave the database nothing to tidy or to write that would disturb what is measured."""
        if place.vendor == "postgresql":
            self.postgres.run("VACUUM ANALYZE", database=place.database)
            self.postgres.run("CHECKPOINT")

    def child(self, place: Place, *arguments: str, timeout_s: float = 600) -> Any:
        """Do a verb of `benchmarks.child`; return its answer. Raise DoesNotRun if it fails."""
        done = subprocess.run(
            child(*arguments),
            env=place.environment(),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        if done.returncode:
            raise DoesNotRun(_last_words(done.stderr))
        return json.loads(done.stdout)

    @contextmanager
    def workers(self, subject: Subject, place: Place, count: int = 0) -> Iterator[Workers]:
        """Run the subject's workers while the block lasts, each in a session of its own."""
        with (self.folder / f"{subject.name}.log").open("w+b") as log:
            workers = Workers(subject.commands(place, count), place, log)
            try:
                yield workers
            finally:
                workers.stop()


class Workers:
    """The worker processes of one measurement, and what they use."""

    def __init__(self, commands: list[list[str]], place: Place, log: IO[bytes]) -> None:
        self.log = log
        self.processes = [
            subprocess.Popen(
                command,
                env=place.environment(),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            for command in commands
        ]
        self.meter = Meter(process.pid for process in self.processes)

    def wait(self, count: Callable[[], int], wanted: int) -> None:
        """Wait until so many have come. Raise DoesNotRun once nothing more comes."""
        seen, patient_until = -1, 0.0
        while (now := count()) < wanted:
            if now > seen:
                seen, patient_until = now, time.monotonic() + PATIENCE_S
            over = bool(self.processes) and all(p.poll() is not None for p in self.processes)
            if over or time.monotonic() > patient_until:
                time.sleep(0.2)
                if count() >= wanted:
                    return
                said = self._said()
                raise DoesNotRun(f"{count()} of {wanted} mails came{': ' if said else ''}{said}")
            time.sleep(0.01)

    def stop(self) -> None:
        """End them kindly, then for good."""
        self.meter.stop()
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(15)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(15)

    def _said(self) -> str:
        self.log.seek(0)
        return _last_words(self.log.read().decode(errors="replace"))


def _last_words(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " / ".join(lines[-LINES_SHOWN:])[-500:]
