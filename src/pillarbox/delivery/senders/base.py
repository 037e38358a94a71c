"""What passes between a drain and whatever writes to the wire; no database here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from django.core.mail import EmailMessage

from pillarbox.delivery.outcomes import Outcome
from pillarbox.models import Message

if TYPE_CHECKING:
    from pillarbox.delivery.verdicts import Verdict

BATCH_MAX = 100
"""The most that one claim takes."""


@dataclass(slots=True, eq=False)
class Parcel:
    """One claimed message on its way; its content is there at its begin, if not before."""

    message: Message
    mailer: str
    email: EmailMessage | None = None
    kinds: dict[str, str] = field(default_factory=dict)
    """Every address to be served now, in lower case, and its field: to, cc, bcc."""
    envelope: list[str] = field(default_factory=list)
    """The same addresses as they stand in the message, for the server."""
    some_sent: bool = False
    some_failed: bool = False
    some_in_doubt: bool = False
    """What earlier attempts made of the other recipients."""
    has_rows: bool = False
    """Whether recipients' rows of earlier attempts are there to be replaced."""
    begun_at: datetime | None = None
    has_other_mailer: bool = False
    """Whether another mailer may take it where this one is at fault."""
    begins_tried: list[datetime] = field(default_factory=list)
    """Every ``begun_at`` whose commit was tried and not answered: any may stand in the row."""
    may_write: Callable[[], bool] | None = None
    """Asked before each block of the body: false once the drain's lease is no longer fresh."""
    server: str = ""
    """What its connection leads to, since that was opened or tried: host and port, or a backend."""
    is_named: bool = False
    """The server has its envelope and waits: to refuse its begin costs the connection."""
    locked_s: float = 0.0
    """How long begin waited, the last time that it found the row locked."""


@dataclass(slots=True, eq=False)
class Result:
    """How an attempt ended; ``recipients`` of the outcome are keyed as ``Parcel.kinds`` is."""

    parcel: Parcel
    outcome: Outcome
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    took_s: float = 0.0
    was_stale: bool = False
    """The server had ended a connection that was used or kept before, without a word: that says
    nothing against the mailer, which a new connection will tell."""
    verdict: Verdict | None = None
    """Set by the ledger at its first try: the commit may have taken place without an answer."""


@dataclass(slots=True, eq=False)
class Begin:
    """A connection is open and asks to send ``parcel``: the drain commits, then permits."""

    parcel: Parcel


@dataclass(slots=True, eq=False)
class Wanted:
    """``parcel`` is the next on a connection: the drain reads its content, and begins nothing.

    What cannot be read is answered by `Sender.permit`, as a Begin is; for the rest there is no
    answer but the content itself.
    """

    parcel: Parcel


Word = Begin | Result | Wanted
"""What a sender says."""


class Sender(Protocol):
    """Sends parcels over its open connections, one message a connection at a time."""

    def room(self, mailer: str, stream: str) -> int:
        """How many more parcels of both it would take without any of them waiting long."""

    @property
    def in_hand(self) -> int:
        """How many parcels it holds, waiting ones included."""

    def offer(self, parcels: Iterable[Parcel]) -> None:
        """Take parcels to send."""

    def collect(self, timeout_s: float) -> list[Word]:
        """Wait for what the connections have to say, up to ``timeout_s``; in their order."""

    def prepare(self) -> None:
        """Render what goes next, as far as it has been read; it says of each what it raises."""

    def permit(self, parcel: Parcel, *, allowed: bool) -> None:
        """Answer a Begin: write the message, or drop the parcel."""

    def drop_waiting(
        self, mailer: str | None = None, *, keep_connecting: bool = False
    ) -> list[Parcel]:
        """Return the parcels that no connection has taken up yet, and forget them.

        With ``keep_connecting`` one stays for each connection that is being opened.
        """

    def works(self, mailer: str) -> bool:
        """Whether another connection to the mailer works, so that one fault is not all of it."""

    def halve(self, mailer: str) -> None:
        """Have half as many connections to the mailer, and one more each minute from then on."""

    def talking(self) -> list[Parcel]:
        """Return the parcels in conversation, for which no Result is there yet."""

    def break_off(self) -> None:
        """Break off every conversation; each still ends in a Result where its backend can say."""

    def close(self) -> None:
        """Stop the connections' work; keep open what the next drain can use."""
