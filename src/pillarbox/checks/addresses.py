"""Checks the addresses in the settings, and how mail about errors travels."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error, Info
from django.utils.log import AdminEmailHandler

from pillarbox import compat
from pillarbox.addresses import bare
from pillarbox.conf import get_settings
from pillarbox.delivery import routes


def check_sender() -> Iterator[CheckMessage]:
    """Check ``DEFAULT_FROM_EMAIL``."""
    sender = str(settings.DEFAULT_FROM_EMAIL)
    if not _is_address(sender):
        yield Error(
            f"DEFAULT_FROM_EMAIL is {sender!r}, which is not an address.",
            hint='Write "shop@example.org" or "The shop <shop@example.org>".',
            id="pillarbox.E008",
        )
    elif bare(sender).endswith("@localhost"):
        yield checks.Warning(
            f"DEFAULT_FROM_EMAIL is {sender}, which other servers refuse.",
            hint="Set it to an address of a domain that is yours.",
            id="pillarbox.W003",
        )


def _is_address(mailbox: str) -> bool:
    name, at, domain = bare(mailbox).rpartition("@")
    return bool(name and at and domain) and not re.search(r"[\r\n]", mailbox)


def check_redirection() -> Iterator[CheckMessage]:
    """Check the addresses of ``REDIRECT_TO``."""
    for mailbox in get_settings().redirect_to:
        if not _is_address(mailbox):
            yield Error(
                f'PILLARBOX["REDIRECT_TO"] has {mailbox!r}, which is not an address.',
                hint='Write [] to deliver to everybody, or ["staging@example.org"].',
                id="pillarbox.E009",
            )


def check_error_mail() -> Iterator[CheckMessage]:
    """Look at the log handlers in use, Django's default one too: mail of theirs may be queued."""
    handlers = [handler for handler in _admin_handlers() if _is_queued(handler)]
    if settings.ADMINS and handlers:
        way = (
            '"using": "smtp"'
            if compat.uses_mailers()
            else f'"email_backend": "{compat.SMTP_BACKEND}"'
        )
        yield Info(
            "AdminEmailHandler queues: a mail about an error that is logged within a transaction "
            "rolls back together with it.",
            hint=f"In LOGGING, give the handler a mailer that sends at once: {way}.",
            id="pillarbox.I001",
        )


def _admin_handlers() -> Iterator[AdminEmailHandler]:
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    for logger in loggers:
        for handler in getattr(logger, "handlers", ()):
            if isinstance(handler, AdminEmailHandler):
                yield handler


def _is_queued(handler: AdminEmailHandler) -> bool:
    if compat.uses_mailers():
        entry = compat.django_mailers().get(getattr(handler, "using", None) or "default", {})
        return routes.is_queueing(routes.backend_path(entry))
    return routes.is_queueing(handler.email_backend or str(settings.EMAIL_BACKEND))
