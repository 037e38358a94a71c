"""What the runner asks of a subject."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.mail import Mail
from benchmarks.place import Place

if TYPE_CHECKING:
    from django.core.mail import EmailMultiAlternatives


class Subject:
    """A way to queue and deliver mail, as its own documentation recommends it.

    Its module imports neither Django nor the package that it measures before a method is called.
    """

    name: str
    title: str
    setup: str
    """Its settings and commands in one line, for the page."""
    packages: ClassVar[Sequence[str]] = ()
    """The distributions whose versions the results state."""

    vendor: ClassVar[str] = "postgresql"
    """The kind of database that it works on."""
    queues: ClassVar[bool] = True
    """Whether it has a queue at all; a bare loop has none."""
    cases: Sequence[str] = ("enqueue", "drain", "latency")
    """The cases that it takes part in, by the starts of their names."""
    drain_mails: int = 400
    """How many to drain where the mail server is near: some seconds' work."""
    remote_mails: int = 400
    """How many where it is 20 ms away."""
    rendered_mails: int = 400
    """How many to render."""

    def settings(self, place: Place) -> dict[str, Any]:
        """Return its Django settings; INSTALLED_APPS are added to the least."""
        return {}

    def prepare(self) -> None:
        """Make what ``migrate`` has not made. Each measurement has a copy of it."""

    def commands(self, place: Place, count: int) -> list[list[str]]:
        """Return the command lines of its workers; a bare loop sends ``count`` mails."""
        raise NotImplementedError

    def enqueue(self, mail: Mail) -> None:
        """Queue one mail in the caller's transaction, if it has one."""
        raise NotImplementedError

    def enqueue_bulk(self, mails: Sequence[Mail]) -> None:
        """Queue many at once."""
        raise NotImplementedError

    def claim_ms(self) -> float:
        """Return how long it takes to claim 100 of what is due, in milliseconds."""
        raise NotImplementedError

    def render(self, messages: Sequence[EmailMultiAlternatives]) -> None:
        """Make the wire's bytes of each message, and keep none."""
        raise NotImplementedError

    def send(self, count: int) -> None:
        """Send so many mails without a queue."""
        raise NotImplementedError
