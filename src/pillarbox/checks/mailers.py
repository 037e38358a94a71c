"""Checks that every stream and every queueing backend ends at a mailer that delivers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from django.core import checks, mail
from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from pillarbox import compat
from pillarbox.conf import get_settings
from pillarbox.delivery import routes


def check() -> Iterator[CheckMessage]:
    """Check the mailers and every way to them; opens none."""
    yield from _check_dictionaries()
    broken = list(_check_backends())
    yield from broken
    if not broken:
        yield from _check_streams()
        yield from _check_queueing_backends()


def _check_dictionaries() -> Iterator[CheckMessage]:
    mailers = get_settings().mailers
    if compat.uses_mailers() and mailers:
        yield Error(
            'Both MAILERS and PILLARBOX["MAILERS"] are set.',
            hint='Django reads MAILERS: move everything there and leave out PILLARBOX["MAILERS"].',
            id="pillarbox.E013",
        )
    # The test runner swaps EMAIL_BACKEND alone, and that is as it should be.
    if compat.uses_mailers() or hasattr(mail, "outbox") or "default" not in mailers:
        return
    path = routes.backend_path(mailers["default"])
    if routes.is_queueing(path) and not routes.is_queueing(compat.present_backend_path()):
        yield checks.Warning(
            'PILLARBOX["MAILERS"]["default"] queues, but EMAIL_BACKEND does not, and Django '
            "sends by that.",
            hint=f'Set EMAIL_BACKEND = "{path}" so that all mail queues, or leave out '
            '"default" so that only send_email() does.',
            id="pillarbox.W005",
        )


def _check_backends() -> Iterator[CheckMessage]:
    where = _where()
    if not compat.uses_mailers():
        yield from _check_path(compat.present_backend_path(), "EMAIL_BACKEND")
    for alias, entry in routes.configured().items():
        yield from _check_path(routes.backend_path(entry), f'{where}["{alias}"]["BACKEND"]')
        if not isinstance(entry.get("OPTIONS", {}), Mapping):
            yield Error(
                f'{where}["{alias}"]["OPTIONS"] is {entry["OPTIONS"]!r}.',
                hint="Make it a dictionary.",
                id="pillarbox.E015",
            )


def _where() -> str:
    return "MAILERS" if compat.uses_mailers() else 'PILLARBOX["MAILERS"]'


def _check_path(path: str, where: str) -> Iterator[CheckMessage]:
    try:
        import_string(path)
    except ImportError as error:
        yield Error(
            f'{where} is "{path}": {error}.',
            hint="Correct the path, or install the package that it is from.",
            id="pillarbox.E015",
        )


def _check_streams() -> Iterator[CheckMessage]:
    streams = get_settings().streams
    for name, stream in streams.items():
        for alias in stream.mailers:
            yield from _check_mailer(alias, f'PILLARBOX["STREAMS"]["{name}"]["mailers"]')
    undirected = [name for name, stream in streams.items() if not stream.mailers]
    if undirected:
        yield from _check_default(undirected[0])


def _check_default(stream: str) -> Iterator[CheckMessage]:
    """Check what carries a stream that names no mailer."""
    if compat.uses_mailers() and "default" not in routes.configured():
        yield Error(
            f'MAILERS has no "default", and the stream "{stream}" names no mailer.',
            hint="Define the one, or let the other name a mailer.",
            id="pillarbox.E010",
        )
        return
    try:
        routes.mailers_for(stream)
    except ImproperlyConfigured as error:
        text, _, hint = str(error).partition(". ")
        yield Error(f"{text}.", hint=hint.removesuffix(" (pillarbox.E010)"), id="pillarbox.E010")


def _check_mailer(alias: str, where: str) -> Iterator[CheckMessage]:
    """Check that what ``where`` names exists and delivers."""
    path = routes.path_of(alias)
    if path is None:
        known = ", ".join(sorted(routes.configured())) or "none"
        yield Error(
            f'{where} names the mailer "{alias}", which is not defined.',
            hint=f"The settings define: {known}.",
            id="pillarbox.E012",
        )
    elif routes.is_queueing(path):
        yield Error(
            f'{where} names "{alias}", which queues again instead of delivering.',
            hint=f"Name one of these: {', '.join(_delivering()) or 'none is defined yet'}.",
            id="pillarbox.E011",
        )


def _delivering() -> list[str]:
    return [
        alias
        for alias, entry in routes.configured().items()
        if not routes.is_queueing(routes.backend_path(entry))
    ]


def _check_queueing_backends() -> Iterator[CheckMessage]:
    """Check ``using`` of every backend that queues; their mail is in the stream ``default``."""
    where = _where()
    mailers = get_settings().stream("default").mailers
    for alias, entry in routes.configured().items():
        using = entry.get("OPTIONS", {}).get("using")
        if not using or not routes.is_queueing(routes.backend_path(entry)):
            continue
        yield from _check_mailer(using, f'{where}["{alias}"]["OPTIONS"]["using"]')
        if mailers and using not in mailers:
            yield Error(
                f'{where}["{alias}"] is to deliver using "{using}", and the stream "default", '
                f'in which its mail is, by "{mailers[0]}".',
                hint="Name the same mailer in both, or leave one of them out.",
                id="pillarbox.E014",
            )
