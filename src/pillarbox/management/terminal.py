"""What the commands write: lines, tables, JSON, and a progress bar on stderr; it knows no mail."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from django.core.management.base import OutputWrapper
from django.core.management.color import Style

REDRAW_EVERY_S = 0.1
LOG_EVERY_S = 10.0
BAR_WIDTH = 30


class Terminal:
    """Where one run of a command writes. With ``as_json`` stdout gets the JSON and nothing else."""

    def __init__(
        self, stdout: OutputWrapper, stderr: OutputWrapper, style: Style, *, as_json: bool = False
    ) -> None:
        self._stdout = stdout
        self._stderr = stderr
        self._style = style
        self.as_json = as_json

    def say(self, text: str = "", *, style: str = "") -> None:
        """Write a line for a person; ``style`` is one of Django's, such as SUCCESS."""
        if not self.as_json:
            paint = getattr(self._style, style) if style else None
            self._stdout.write(self._printable(text), style_func=paint)
            self._stdout.flush()

    def data(self, value: Any) -> None:
        """Write the result as JSON, where that was asked for."""
        if self.as_json:
            self._stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str))

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Write columns, one row at least; those that hold numbers stand to the right."""
        columns = list(zip(header, *rows, strict=True))
        widths = [max(map(len, column)) for column in columns]
        is_right = [all(cell[:1].isdigit() or cell == "-" for cell in c[1:]) for c in columns]
        for row in (header, *rows):
            cells = zip(row, widths, is_right, strict=True)
            line = "  ".join(c.rjust(w) if right else c.ljust(w) for c, w, right in cells)
            self.say(line.rstrip())

    def progress(self, label: str, total: int | None = None) -> Progress:
        """Return a progress bar, or what logs a line from time to time where nobody watches."""
        return Progress(self._stderr, label, total)

    def _printable(self, text: str) -> str:
        """Return the text as the terminal can show it: a C locale has no check marks."""
        encoding = getattr(self._stdout, "encoding", None) or "utf-8"
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            for mark, plain in (
                ("✓", "ok"),
                ("✗", "FAILED"),
                ("→", "->"),
                ("–", "-"),
                ("…", "..."),
            ):
                text = text.replace(mark, plain)
            text = text.encode(encoding, "replace").decode(encoding)
        return text


class Progress:
    """Shows ``done`` of ``total`` on stderr while its block runs; leaves no trace on a terminal."""

    def __init__(self, stderr: OutputWrapper, label: str, total: int | None = None) -> None:
        self.label = label
        self.total = total
        self.done = 0
        self._stderr = stderr
        self._is_watched = stderr.isatty()
        self._shown_at = time.monotonic()

    def __enter__(self) -> Progress:
        self._show()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._is_watched:
            self._write("\r\033[K")

    def advance(self, count: int = 1) -> None:
        """Count what is done."""
        self.set(self.done + count)

    def set(self, done: int) -> None:
        """Say how much is done by now."""
        self.done = done
        pause_s = REDRAW_EVERY_S if self._is_watched else LOG_EVERY_S
        if time.monotonic() - self._shown_at >= pause_s:
            self._show()

    def _show(self) -> None:
        self._shown_at = time.monotonic()
        if self._is_watched:
            self._write(f"\r\033[K{self._bar()}")
        elif self.done:
            self._write(f"{self.label}: {self._figures()}\n")

    def _bar(self) -> str:
        if not self.total:
            return f"{self.label} {self._figures()}"
        filled = min(BAR_WIDTH, BAR_WIDTH * self.done // self.total)
        return f"{self.label} [{'#' * filled}{' ' * (BAR_WIDTH - filled)}] {self._figures()}"

    def _figures(self) -> str:
        return f"{self.done:,}" + (f" of {self.total:,}" if self.total else "")

    def _write(self, text: str) -> None:
        self._stderr.write(text, style_func=str, ending="")
        self._stderr.flush()


def duration(seconds: float | None) -> str:
    """Return a duration in the unit that a person would choose: 12 ms, 4.2 s, 3 min, 5 h, 2 d."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{round(seconds * 1000)} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    for unit, length in (("d", 86_400), ("h", 3_600)):
        if seconds >= 2 * length:
            return f"{round(seconds / length)} {unit}"
    return f"{round(seconds / 60)} min"


def is_interactive() -> bool:
    """Whether somebody is there to answer a question."""
    return sys.stdin is not None and sys.stdin.isatty()
