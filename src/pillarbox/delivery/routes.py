"""Which mailer carries a message, and the backend behind its alias; it opens no connection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.core.mail.backends.smtp import EmailBackend as DjangoSMTPBackend
from django.utils.module_loading import import_string

from pillarbox import compat
from pillarbox.conf import get_settings
from pillarbox.exceptions import MailerNotFound

if TYPE_CHECKING:
    from django.core.mail.backends.base import BaseEmailBackend

PRESENT = "default"
"""The alias of the project's present backend where the settings name no mailers."""

override: Callable[[str], BaseEmailBackend] | None = None
"""Set by ``pillarbox.testing`` alone: makes the backend for every alias."""


def configured() -> Mapping[str, Mapping[str, Any]]:
    """Return the mailers by alias, from ``MAILERS`` or ``PILLARBOX["MAILERS"]``."""
    return compat.django_mailers() or get_settings().mailers


def aliases() -> list[str]:
    """Return every alias that can carry mail, queueing ones excepted."""
    found = [alias for alias, entry in configured().items() if not is_queueing(backend_path(entry))]
    return found or [PRESENT]


def backend_path(entry: Mapping[str, Any]) -> str:
    """Return the backend of a mailers entry, Django's default where it names none."""
    return str(entry.get("BACKEND", compat.SMTP_BACKEND))


def path_of(alias: str) -> str | None:
    """Return the backend behind an alias; before MAILERS the present one needs no entry."""
    entry = configured().get(alias)
    if entry is not None:
        return backend_path(entry)
    is_present = alias == PRESENT and not compat.uses_mailers()
    return compat.present_backend_path() if is_present else None


def is_queueing(path: str) -> bool:
    """Whether the backend queues with us, so that delivering by it would go round for ever."""
    try:
        return bool(getattr(import_string(path), "is_queueing", False))
    except ImportError:
        return False


def mailers_for(stream: str, hint: str = "") -> tuple[str, ...]:
    """Return the aliases that may carry a message of ``stream``, the first choice first.

    The stream's own mailers, else ``hint`` (the queueing backend's ``using``), else the default
    queueing backend's ``using``, else the project's present backend. Raise ImproperlyConfigured
    if all that is left would queue again.
    """
    chosen = get_settings().stream(stream).mailers
    if chosen:
        return chosen
    if hint and hint in aliases():
        return (hint,)
    return (_default_mailer(),)


def hints() -> set[str]:
    """Return every ``using`` that the settings give to a queueing backend."""
    entries = [entry for entry in configured().values() if is_queueing(backend_path(entry))]
    return {str(entry.get("OPTIONS", {}).get("using") or "") for entry in entries} - {""}


def _default_mailer() -> str:
    entry = configured().get("default")
    path = backend_path(entry) if entry is not None else compat.present_backend_path()
    if not is_queueing(path):
        return "default" if entry is not None else PRESENT
    using = (entry or {}).get("OPTIONS", {}).get("using")
    if not using:
        where = "MAILERS" if compat.uses_mailers() else 'PILLARBOX["MAILERS"]'
        raise ImproperlyConfigured(
            f"The default mail backend queues, and {where} does not say what delivers. Write "
            f'{where}["default"] = {{"BACKEND": "{path}", "OPTIONS": {{"using": "smtp"}}}} '
            f'and define "smtp" beside it. (pillarbox.E010)'
        )
    return str(using)


def takes_mime(alias: str) -> bool:
    """Whether the mailer writes the MIME that a message renders, as SMTP does.

    The other kind makes an API's request of the message's attributes.
    """
    entry = configured().get(alias)
    path = backend_path(entry) if entry is not None else compat.present_backend_path()
    backend = import_string(path)
    return issubclass(backend, DjangoSMTPBackend) or path.startswith("django.core.mail.backends.")


def build(alias: str) -> BaseEmailBackend:
    """Make a new backend for ``alias``, not yet open.

    Without ``MAILERS``, every alias is locmem while Django's test runner has ``mail.outbox`` in
    place: it swaps ``EMAIL_BACKEND`` alone, and a user's test would send real mail.

    Raise MailerNotFound for an unknown alias, ImproperlyConfigured for one that queues again.
    """
    if override is not None:
        return override(alias)
    if hasattr(mail, "outbox") and not compat.uses_mailers():
        return compat.build_backend(alias, compat.LOCMEM_BACKEND, {})
    entry = configured().get(alias)
    if entry is None and alias != PRESENT:
        known = ", ".join(sorted(configured())) or "none"
        raise MailerNotFound(f"There is no mailer {alias!r}. The settings define: {known}.")
    path = backend_path(entry) if entry is not None else compat.present_backend_path()
    if is_queueing(path):
        raise ImproperlyConfigured(
            f"The mailer {alias!r} queues again instead of delivering. Name another. "
            "(pillarbox.E011)"
        )
    if entry is None:
        return compat.open_present_backend()
    return compat.build_backend(alias, path, entry.get("OPTIONS", {}))
