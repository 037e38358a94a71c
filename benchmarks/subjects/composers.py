"""What makes the wire's bytes of Django's messages: the worker's composer, and Django itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from benchmarks.subjects.base import Subject

if TYPE_CHECKING:
    from django.core.mail import EmailMultiAlternatives


class Composer(Subject):
    """Pillarbox's, as the worker calls it for a server that takes 8BITMIME."""

    name, title = "pillarbox_composer", "Pillarbox's composer"
    setup = "`pillarbox.mime.compose(message, eight_bit=True)`, one process"
    packages = ("django-pillarbox",)
    queues = False
    cases = ("compose",)
    rendered_mails = 20_000

    def render(self, messages: Sequence[EmailMultiAlternatives]) -> None:
        """Compose each; one that is left to Django is an error here."""
        from pillarbox.mime import compose

        for message in messages:
            if compose(message, eight_bit=True) is None:
                raise ValueError("The composer does not know the benchmark's mail.")


class DjangoMessage(Subject):
    """Django's own rendering, as its SMTP backend calls it."""

    name, title = "django_message", "Django's `message()`"
    setup = (
        "`message(policy=email.policy.SMTP).as_bytes()`, before Django 6.0 "
        '`message().as_bytes(linesep="\\r\\n")`, one process'
    )
    queues = False
    cases = ("compose",)

    def render(self, messages: Sequence[EmailMultiAlternatives]) -> None:
        """Render each by `EmailMessage.message`."""
        import email.policy

        import django

        if django.VERSION >= (6, 0):
            for message in messages:
                message.message(policy=email.policy.SMTP).as_bytes()
        else:
            for message in messages:
                cast("Any", message).message().as_bytes(linesep="\r\n")


SUBJECTS = (Composer(), DjangoMessage())
