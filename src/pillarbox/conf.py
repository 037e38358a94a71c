"""The settings as one frozen value, read late and validated once; it opens nothing."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from types import MappingProxyType
from typing import Any, Literal

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

DoubtPolicy = Literal["resend", "hold"]
QUEUE_BACKEND = "pillarbox.backends.queue.EmailBackend"
ENGINES = ("django_q2", "celery", "worker", "immediate")


@dataclass(frozen=True)
class Problem:
    """Something wrong in the settings; `pillarbox.checks` shows it under its stable ``id``."""

    id: str
    text: str
    hint: str

    def __str__(self) -> str:
        return f"{self.text} {self.hint} ({self.id})"


@dataclass(frozen=True)
class Rate:
    """So many recipients in such a time, as a stream's ``rate`` says it: ``"14/s"``."""

    recipients: int
    per: timedelta

    @property
    def per_s(self) -> float:
        """Recipients a second: 8.33 for ``"500/min"``, 0.0028 for ``"10/h"``."""
        return self.recipients / self.per.total_seconds()

    @classmethod
    def parse(cls, text: object) -> Rate:
        """Read ``"14/s"``, ``"500/min"``, ``"1000/h"`` or ``"20000/d"``.

        Raise ValueError for anything else, a rate of zero included.
        """
        written = text if isinstance(text, str) else ""
        match = re.fullmatch(r"([1-9][0-9]{0,8})/(s|min|h|d)", written)
        if match is None:
            raise ValueError(f"{text!r} is no rate.")
        return cls(int(match[1]), _UNITS[match[2]])

    def __str__(self) -> str:
        (unit,) = (name for name, per in _UNITS.items() if per == self.per)
        return f"{self.recipients}/{unit}"


_UNITS = {
    "s": timedelta(seconds=1),
    "min": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}


@dataclass(frozen=True)
class Stream:
    """How one kind of mail travels; the defaults are those of a stream that sets nothing."""

    name: str = "default"
    mailers: tuple[str, ...] = ()
    rate: Rate | None = None
    retry_for: timedelta = timedelta(days=2)
    in_doubt: DoubtPolicy = "resend"
    sensitive: bool = False


@dataclass(frozen=True)
class Settings:
    """``PILLARBOX`` with its defaults; the fields have the keys' names in lower case."""

    engine: str = "django_q2"
    engine_options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    streams: Mapping[str, Stream] = field(
        default_factory=lambda: MappingProxyType({"default": Stream()})
    )
    mailers: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))
    connections: int = 8
    max_drains: int = 4
    attachments_limit_bytes: int = 25 * 2**20
    attachments_storage: str | None = None
    retention_content: timedelta = timedelta(days=30)
    retention_rows: timedelta = timedelta(days=365)
    redirect_to: tuple[str, ...] = ()

    def stream(self, name: str) -> Stream:
        """Return the stream, or ``default`` for one that has left the settings."""
        return self.streams.get(name, self.streams["default"])


@cache
def get_settings() -> Settings:
    """Return the validated settings; raise ImproperlyConfigured with the first problem.

    Read once and kept; Django's ``override_settings`` makes the next call read anew.
    """
    value, problems = read(getattr(settings, "PILLARBOX", {}))
    if problems:
        raise ImproperlyConfigured(str(problems[0]))
    return value


def _forget(*, setting: str, **_: Any) -> None:
    if setting in {"PILLARBOX", "MAILERS"}:
        get_settings.cache_clear()


setting_changed.connect(_forget, dispatch_uid="pillarbox.conf")


def read(raw: object) -> tuple[Settings, list[Problem]]:
    """Turn the setting ``PILLARBOX`` into `Settings` and the list of what is wrong in it."""
    reader = _Reader()
    return reader.settings(raw), reader.problems


_MISSING = object()


class _Reader:
    """Reads one value after the other and notes every problem, so that a user sees all at once."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def settings(self, raw: object) -> Settings:
        top = self._dictionary(raw, "PILLARBOX", _TOP_KEYS)
        attachments = self._dictionary(
            top.get("ATTACHMENTS", {}), 'PILLARBOX["ATTACHMENTS"]', ("limit", "storage")
        )
        retention = self._dictionary(
            top.get("RETENTION", {}), 'PILLARBOX["RETENTION"]', ("content", "rows")
        )
        plain = Settings()
        values = {
            "engine": self._value(top, "ENGINE", plain.engine, _is_text, "an engine's name"),
            "engine_options": self._value(
                top, "ENGINE_OPTIONS", plain.engine_options, _is_mapping, "a dictionary"
            ),
            "streams": self._streams(top.get("STREAMS", {})),
            "mailers": self._mailers(top.get("MAILERS", {})),
            "connections": self._value(
                top, "CONNECTIONS", plain.connections, _is_count, "a whole number from 1"
            ),
            "max_drains": self._value(
                top, "MAX_DRAINS", plain.max_drains, _is_count, "a whole number from 1"
            ),
            "attachments_limit_bytes": self._value(
                attachments, "limit", plain.attachments_limit_bytes, _is_count, "a number of bytes"
            ),
            "attachments_storage": self._value(
                attachments, "storage", None, _is_text_or_none, "None or an alias of STORAGES"
            ),
            "retention_content": self._value(
                retention, "content", plain.retention_content, _is_duration, _A_DURATION
            ),
            "retention_rows": self._value(
                retention, "rows", plain.retention_rows, _is_duration, _A_DURATION
            ),
            "redirect_to": tuple(
                self._value(top, "REDIRECT_TO", (), _is_list_of_text, "a list of addresses")
            ),
        }
        if values["engine"] not in ENGINES:
            self._problem(
                "E003",
                f'PILLARBOX["ENGINE"] is {values["engine"]!r}, which is no engine.',
                f"Choose one of {', '.join(ENGINES)}.",
            )
        return Settings(**values)

    def _streams(self, raw: object) -> Mapping[str, Stream]:
        streams = {"default": Stream()}
        for name, given in self._dictionary(raw, 'PILLARBOX["STREAMS"]', None).items():
            if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name):
                self._problem(
                    "E004",
                    f'PILLARBOX["STREAMS"] has the name {name!r}.',
                    "Use 1 to 64 letters, digits, dots, dashes and underscores.",
                )
                continue
            streams[name] = self._stream(name, given)
        return MappingProxyType(streams)

    def _stream(self, name: str, given: object) -> Stream:
        where = f'PILLARBOX["STREAMS"]["{name}"]'
        keys = ("mailers", "rate", "retry_for", "in_doubt", "sensitive")
        entry = self._dictionary(given, where, keys)
        mailers = self._value(entry, "mailers", (), _is_list_of_text, "a list of mailers", where)
        if len(set(mailers)) < len(mailers):
            self._problem(
                "E005",
                f"{where} names a mailer twice: {', '.join(mailers)}.",
                "Name each once, in the order in which they are to be used.",
            )
        plain = Stream()
        return Stream(
            name=name,
            mailers=tuple(mailers),
            rate=self._rate(entry.get("rate"), where),
            retry_for=self._value(
                entry, "retry_for", plain.retry_for, _is_duration, _A_DURATION, where
            ),
            in_doubt=self._value(
                entry, "in_doubt", plain.in_doubt, _is_policy, '"resend" or "hold"', where
            ),
            sensitive=self._value(
                entry, "sensitive", plain.sensitive, _is_flag, "True or False", where
            ),
        )

    def _rate(self, given: object, where: str) -> Rate | None:
        try:
            return None if given is None else Rate.parse(given)
        except ValueError:
            self._problem(
                "E006",
                f'{where}["rate"] is {given!r}.',
                'Write recipients per s, min, h or d, as in "14/s" or "500/min"; None is no limit.',
            )
            return None

    def _mailers(self, raw: object) -> Mapping[str, Mapping[str, Any]]:
        mailers = {}
        for alias, given in self._dictionary(raw, 'PILLARBOX["MAILERS"]', None).items():
            where = f'PILLARBOX["MAILERS"]["{alias}"]'
            mailers[alias] = self._dictionary(given, where, ("BACKEND", "OPTIONS"))
        return MappingProxyType(mailers)

    def _dictionary(
        self, raw: object, where: str, known: tuple[str, ...] | None
    ) -> Mapping[str, Any]:
        if not isinstance(raw, Mapping):
            self._problem("E001", f"{where} is {raw!r}.", "Make it a dictionary.")
            return {}
        for key in raw if known is not None else ():
            if key not in known:  # type: ignore[operator]
                self._unknown(key, where, known)  # type: ignore[arg-type]
        return raw

    def _unknown(self, key: object, where: str, known: tuple[str, ...]) -> None:
        near = difflib.get_close_matches(str(key), known, 1, 0.5)
        hint = f"Did you mean {near[0]!r}?" if near else f"The keys are {', '.join(known)}."
        self._problem("E002", f"{where} has the unknown key {key!r}.", hint)

    def _value(
        self,
        entry: Mapping[str, Any],
        key: str,
        default: Any,
        is_valid: Callable[[Any], bool],
        expected: str,
        where: str = "PILLARBOX",
    ) -> Any:
        value = entry.get(key, _MISSING)
        if value is _MISSING:
            return default
        if is_valid(value):
            return value
        self._problem("E001", f'{where}["{key}"] is {value!r}.', f"Make it {expected}.")
        return default

    def _problem(self, number: str, text: str, hint: str) -> None:
        self.problems.append(Problem(f"pillarbox.{number}", text, hint))


_TOP_KEYS = (
    "ENGINE",
    "ENGINE_OPTIONS",
    "STREAMS",
    "MAILERS",
    "CONNECTIONS",
    "MAX_DRAINS",
    "ATTACHMENTS",
    "RETENTION",
    "REDIRECT_TO",
)
_A_DURATION = "a positive timedelta"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_text_or_none(value: Any) -> bool:
    return value is None or _is_text(value)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_duration(value: Any) -> bool:
    return isinstance(value, timedelta) and value > timedelta(0)


def _is_list_of_text(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(_is_text(item) for item in value)


def _is_policy(value: Any) -> bool:
    return value in {"resend", "hold"}


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)
