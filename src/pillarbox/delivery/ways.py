"""The ways that mail can take now: a stream and the mailers for it; pure, reads settings alone."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pillarbox.conf import Rate, get_settings
from pillarbox.delivery import routes


@dataclass(frozen=True)
class Way:
    """A stream and what may carry it now; a claim takes mail by the way that it goes."""

    stream: str
    mailers: tuple[str, ...]
    """In the settings' order; the first one carries."""
    hint: str = ""
    """Take only mail that a queueing backend marked with this ``using``; empty: see below."""
    other_hints: tuple[str, ...] = ()
    """Leave mail with these marks to ways of their own."""
    limit: int | None = None
    """The most that one claim may take of it; None for no limit of its own."""

    @property
    def mailer(self) -> str:
        """The alias that carries."""
        return self.mailers[0]

    @property
    def rate(self) -> Rate | None:
        """How many recipients it may have; None is no limit."""
        return get_settings().stream(self.stream).rate

    @property
    def bucket(self) -> tuple[str, str]:
        """Whose tokens it takes: a stream that has left the settings shares those of default."""
        return get_settings().stream(self.stream).name, self.mailer


def ways(streams: Iterable[str], found_hints: Iterable[str] = ()) -> list[Way]:
    """Return every way of ``streams``, whatever their mailers' health.

    A stream with mailers of its own has one. Any other has one for each mailer that a message of
    it can be marked with (the settings' ``using``, and ``found_hints`` from the queue), and one
    for the rest. Raise ImproperlyConfigured where the rest has no mailer.
    """
    found = set(found_hints)
    return [way for stream in streams for way in _ways(stream, found)]


def _ways(stream: str, found_hints: set[str]) -> Iterator[Way]:
    default = routes.mailers_for(stream)
    if get_settings().stream(stream).mailers:
        yield Way(stream, default)
        return
    others = tuple(alias for alias in routes.aliases() if alias not in default)
    yield Way(stream, default, other_hints=others)
    for hint in sorted((routes.hints() | found_hints).intersection(others)):
        yield Way(stream, (hint,), hint=hint)


def without(found: Sequence[Way], mailers: Collection[str]) -> list[Way]:
    """Return the ways that are left where ``mailers`` carry nothing, each by its next mailer."""
    left = []
    for way in found:
        able = tuple(alias for alias in way.mailers if alias not in mailers)
        if able:
            left.append(dataclasses.replace(way, mailers=able))
    return left


def shared_mailers(found: Iterable[Way]) -> set[str]:
    """Return the mailers that may carry more than one stream."""
    pairs = {(alias, way.stream) for way in found for alias in way.mailers}
    counted = Counter(alias for alias, _ in pairs)
    return {alias for alias, streams in counted.items() if streams > 1}
