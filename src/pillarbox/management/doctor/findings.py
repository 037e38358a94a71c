"""What an examination finds: one line, its grade, and what to do about it; pure."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Grade(StrEnum):
    """How bad it is; only what is bad makes the doctor's exit code 1."""

    GOOD = "good"
    CAUTION = "caution"
    BAD = "bad"


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    topic: str
    grade: Grade
    text: str
    remedy: str = ""
    took_s: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON, the time in milliseconds."""
        took_ms = None if self.took_s is None else round(self.took_s * 1000, 1)
        return {
            "topic": self.topic,
            "grade": self.grade.value,
            "text": self.text,
            "remedy": self.remedy,
            "took_ms": took_ms,
        }


def good(topic: str, text: str, took_s: float | None = None) -> Finding:
    """Return that something is as it should be."""
    return Finding(topic, Grade.GOOD, text, took_s=took_s)


def caution(topic: str, text: str, remedy: str = "") -> Finding:
    """Return that something may be meant, but looks wrong."""
    return Finding(topic, Grade.CAUTION, text, remedy)


def bad(topic: str, text: str, remedy: str, took_s: float | None = None) -> Finding:
    """Return that something keeps mail from being delivered."""
    return Finding(topic, Grade.BAD, text, remedy, took_s)


def reason(error: BaseException) -> str:
    """Return an exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@dataclass
class Clock:
    """Takes the time of named steps."""

    laps: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def lap(self, name: str) -> Iterator[None]:
        """Time the block, one that raises too; further laps of the name are added."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.laps[name] = self.laps.get(name, 0.0) + time.monotonic() - started
