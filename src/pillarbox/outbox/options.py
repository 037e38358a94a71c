"""What a caller may say about a message besides its content, checked at the call; no database."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.utils import timezone

from pillarbox.addresses import characters
from pillarbox.conf import get_settings
from pillarbox.exceptions import InvalidMessage
from pillarbox.models import Priority

_PRIORITIES = {priority.name.lower(): priority for priority in Priority}
_PLAIN = frozenset({str})
_MARGIN = timedelta(days=2)
"""More than any time zone is from UTC: every moment that is taken can be read as local time."""
_EARLIEST = datetime.min.replace(tzinfo=UTC) + _MARGIN
_LATEST = datetime.max.replace(tzinfo=UTC) - _MARGIN
_LEVELS_MAX = 30
"""MariaDB's JSON_VALID refuses 32 (``JSON_DEPTH_LIMIT``)."""
_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""As JSON writes a NUL; after another backslash it is a person's text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The arguments of ``send_email`` that are not content, as `pillarbox.api` documents them.

    ``using`` is the mailer that a queueing backend names. Raises InvalidMessage when made with a
    value that could not be followed.
    """

    stream: str = "default"
    priority: str = "normal"
    send_at: datetime | timedelta | None = None
    expires_at: datetime | timedelta | None = None
    idempotency_key: str | None = None
    in_doubt: str | None = None
    tags: Sequence[str] = ()
    metadata: Mapping[str, Any] | None = None
    sensitive: bool = False
    using: str = ""

    def __post_init__(self) -> None:
        if not type(self.stream) is type(self.priority) is type(self.using) is str:
            self._make_plain("stream", "priority", "using")
        _check_choice("stream", self.stream, get_settings().streams)
        _check_choice("priority", self.priority, _PRIORITIES)
        if self.in_doubt is not None:
            self._make_plain("in_doubt")
            _check_choice("in_doubt", self.in_doubt, ("resend", "hold"))
        if not isinstance(self.sensitive, bool):
            raise InvalidMessage(f"sensitive is {self.sensitive!r}. Pass True or False.")
        if self.send_at is not None:
            _check_moment("send_at", self.send_at)
        if self.expires_at is not None:
            _check_moment("expires_at", self.expires_at)
        if self.idempotency_key is not None:
            self._make_plain("idempotency_key")
            _check_key(self.idempotency_key)
        if self.tags != ():
            _check_tags(self.tags)
            if not _PLAIN.issuperset(map(type, self.tags)):
                object.__setattr__(self, "tags", [*map(characters, self.tags)])
        if self.metadata is not None:
            _check_metadata(self.metadata)

    def _make_plain(self, *names: str) -> None:
        """Replace subclasses of `str`, an enum's members say, by their own characters.

        Drivers write them otherwise (mysqlclient by ``str()``), and their hash may be another.
        """
        for name in names:
            value = getattr(self, name)
            if isinstance(value, str) and type(value) is not str:
                object.__setattr__(self, name, characters(value))

    def overridden_by(self, given: object) -> Options:
        """Return these options with those of ``message.pillarbox`` in their place.

        Raise InvalidMessage for an unknown one, with the nearest known.
        """
        if given is None:
            return self
        if not isinstance(given, Mapping):
            raise InvalidMessage(f"message.pillarbox is {given!r}. Make it a dictionary.")
        for name in given:
            if name not in _KNOWN:
                near = difflib.get_close_matches(str(name), _KNOWN, 1, 0.5)
                hint = f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(_KNOWN)}."
                raise InvalidMessage(f"message.pillarbox has the unknown key {name!r}. {hint}")
        return dataclasses.replace(self, **given)

    @property
    def priority_number(self) -> Priority:
        """The priority as the row has it."""
        return _PRIORITIES[self.priority]

    @property
    def is_sensitive(self) -> bool:
        """Whether the call or the stream says so."""
        return self.sensitive or get_settings().stream(self.stream).sensitive

    def schedule(self, now: datetime) -> tuple[datetime | None, datetime | None]:
        """Return ``send_at`` and ``expires_at`` as moments in UTC; None where not given.

        Raise InvalidMessage if the message would expire before it is due.
        """
        if self.send_at is None and self.expires_at is None:
            return None, None
        send_at = _moment("send_at", self.send_at, now)
        expires_at = _moment("expires_at", self.expires_at, now)
        if expires_at is not None and expires_at <= (send_at or now):
            raise InvalidMessage(
                f"expires_at ({expires_at.isoformat()}) is not after the moment of sending. "
                "Pass a later one."
            )
        return send_at, expires_at


_KNOWN = tuple(entry.name for entry in dataclasses.fields(Options) if entry.name != "using")
"""What a caller may say in ``message.pillarbox``."""


def _moment(name: str, value: datetime | timedelta | None, now: datetime) -> datetime | None:
    if value is None:
        return None
    try:
        moment = now + value if isinstance(value, timedelta) else value.astimezone(UTC)
    except OverflowError:
        moment = None
    if moment is None or not _EARLIEST <= moment <= _LATEST:
        raise InvalidMessage(f"{name} is {value!r}, beyond the calendar. Pass a nearer one.")
    return moment


def _check_choice(name: str, value: object, known: Collection[str]) -> None:
    if isinstance(value, str) and value in known:
        return
    near = difflib.get_close_matches(str(value), known, 1, 0.5)
    hint = f"Did you mean {near[0]!r}?" if near else f"Choose one of {', '.join(known)}."
    if name == "stream":
        hint += ' Streams are defined in PILLARBOX["STREAMS"].'
    raise InvalidMessage(f"{name} is {value!r}, which is not known. {hint}")


def _check_moment(name: str, value: object) -> None:
    if isinstance(value, timedelta):
        return
    if not isinstance(value, datetime):
        raise InvalidMessage(f"{name} is {value!r}. Pass an aware datetime or a timedelta.")
    if timezone.is_naive(value):
        raise InvalidMessage(
            f"{name} is the naive datetime {value.isoformat()}. Pass an aware one, "
            "as django.utils.timezone.now() gives, or a timedelta."
        )


def _check_key(key: object) -> None:
    if not isinstance(key, str) or not 1 <= len(key) <= 255:
        raise InvalidMessage("idempotency_key must be a string of 1 to 255 characters.")
    _check_storable("idempotency_key", key)


def _check_tags(tags: object) -> None:
    if isinstance(tags, str) or not isinstance(tags, Sequence):
        raise InvalidMessage(f"tags is {tags!r}. Pass a list of strings.")
    for tag in tags:
        if not isinstance(tag, str):
            raise InvalidMessage(f"tags holds {tag!r}. Pass strings only.")
        _check_storable("tags", tag)


def _check_metadata(metadata: object) -> None:
    if not isinstance(metadata, Mapping):
        raise InvalidMessage(f"metadata is {metadata!r}. Pass a dictionary.")
    written = dict(metadata)
    _check_levels(written)
    try:
        text = json.dumps(written, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise _no_json(error) from error
    if _ESCAPED_NUL.search(text):
        raise InvalidMessage("metadata holds a NUL, which PostgreSQL cannot store. Leave it out.")
    _check_storable("metadata", text)


def _no_json(why: object) -> InvalidMessage:
    return InvalidMessage(
        f"metadata cannot be written as JSON ({why}). Use strings, numbers, lists and "
        "dictionaries with string keys."
    )


def _check_levels(metadata: dict[Any, Any]) -> None:
    """Raise InvalidMessage for too many levels, or for a key that JSON would make a string of.

    Level by level, each object once: neither depth nor repetition makes it fail, or take long.
    """
    level: dict[int, Any] = {id(metadata): metadata}
    for _ in range(_LEVELS_MAX):
        level = {id(item): item for holder in level.values() for item in _held(holder)}
        if not level:
            return
    raise InvalidMessage(
        f"metadata is nested deeper than {_LEVELS_MAX} levels, which MariaDB cannot store. Make it "
        "flatter, or put the inner levels there as text: json.dumps(value)."
    )


def _held(holder: Any) -> Iterator[Any]:
    """Yield the dictionaries and lists that stand in another one."""
    if isinstance(holder, dict):
        for key in holder:
            if not isinstance(key, str):
                raise _no_json(f"the key {key!r} is no string")
        holder = holder.values()
    for item in holder:
        if isinstance(item, dict | list | tuple):
            yield item


def _check_storable(name: str, text: str) -> None:
    if "\x00" in text:
        raise InvalidMessage(f"{name} holds a NUL, which PostgreSQL cannot store. Leave it out.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidMessage(f"{name} holds a lone surrogate. Pass valid Unicode.") from None
