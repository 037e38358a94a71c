"""Both ways to the wire behind one: the loop for Pillarbox's SMTP backend, threads for others."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from pillarbox.backends.smtp import EmailBackend
from pillarbox.delivery import routes
from pillarbox.delivery.senders.base import Parcel, Word
from pillarbox.delivery.senders.smtp import SMTPSender
from pillarbox.delivery.senders.threads import ThreadsSender

_OURS = ("connect", "deliver", "render", "_send", "connection_class")
"""What a subclass must have left as it is for its messages to go by the loop."""


def goes_by_loop(mailer: str) -> bool:
    """Whether the loop can speak for the mailer's backend: ours, or a subclass that sends as it.

    What cannot be built goes by the threads, whose attempt to open it tells of the reason.
    """
    try:
        kind = type(routes.build(mailer))
    except Exception:  # noqa: BLE001 - whatever it is, the attempt to open will tell of it
        return False
    return issubclass(kind, EmailBackend) and all(
        getattr(kind, name) is getattr(EmailBackend, name) for name in _OURS
    )


class MixedSender:
    """`Sender` that hands each mailer's parcels to the way that suits it, on one allowance."""

    def __init__(self, connections: int) -> None:
        self._loop = SMTPSender(connections, elsewhere=lambda: self._threads.busy())
        self._threads = ThreadsSender(
            connections, elsewhere=lambda: self._loop.busy(), on_word=self._loop.poke
        )
        self._ways: dict[str, SMTPSender | ThreadsSender] = {}

    def _way(self, mailer: str) -> SMTPSender | ThreadsSender:
        if mailer not in self._ways:
            self._ways[mailer] = self._loop if goes_by_loop(mailer) else self._threads
        return self._ways[mailer]

    def share(self, mailers: Iterable[str]) -> None:
        """Keep one connection of each of these mailers from the stream that has all the others."""
        shared = frozenset(mailers)
        self._loop.share(shared)
        self._threads.share(shared)

    def room(self, mailer: str, stream: str) -> int:
        """How many more parcels of both it would take without any of them waiting long."""
        return self._way(mailer).room(mailer, stream)

    @property
    def in_hand(self) -> int:
        """How many parcels it holds, waiting ones included."""
        return self._loop.in_hand + self._threads.in_hand

    def offer(self, parcels: Iterable[Parcel]) -> None:
        """Take parcels to send."""
        for way, some in groupby(parcels, lambda parcel: self._way(parcel.mailer)):
            way.offer(some)

    def collect(self, timeout_s: float) -> list[Word]:
        """Wait for the first word of either, up to ``timeout_s``."""
        if not self._loop.in_hand:
            said = self._loop.collect(0)  # what it keeps open may have been closed
            return said or self._threads.collect(timeout_s)
        said = self._threads.collect(0)
        said += self._loop.collect(0 if said else timeout_s)
        return said or self._threads.collect(0)

    def interrupt(self) -> None:
        """Have `collect` return soon; may be called from any thread."""
        self._loop.poke()
        self._threads.interrupt()

    def prepare(self) -> None:
        """Render what goes next by the loop; a thread renders for itself."""
        self._loop.prepare()

    def permit(self, parcel: Parcel, *, allowed: bool) -> None:
        """Answer a Begin: write the message, or drop the parcel."""
        self._way(parcel.mailer).permit(parcel, allowed=allowed)

    def drop_waiting(
        self, mailer: str | None = None, *, keep_connecting: bool = False
    ) -> list[Parcel]:
        """Take back what waits, of one mailer or of all."""
        return [
            parcel
            for way in (self._loop, self._threads)
            for parcel in way.drop_waiting(mailer, keep_connecting=keep_connecting)
        ]

    def drop_stuck(self) -> list[Parcel]:
        """Take back what waits behind conversations that have gone on for 5 s, all of them."""
        return self._loop.drop_stuck() + self._threads.drop_stuck()

    def works(self, mailer: str) -> bool:
        """Whether another connection to the mailer works, so that one fault is not all of it."""
        return self._way(mailer).works(mailer)

    def halve(self, mailer: str) -> None:
        """Have half as many connections to the mailer, and one more each minute from then on."""
        self._way(mailer).halve(mailer)

    def talking(self) -> list[Parcel]:
        """Return the parcels in conversation, for which no Result is there yet."""
        return self._loop.talking() + self._threads.talking()

    def break_off(self) -> None:
        """Break off every conversation; each still ends in a Result where its backend can say."""
        self._loop.break_off()
        self._threads.break_off()

    def close(self) -> None:
        """Stop the connections' work; keep open what the next drain can use."""
        self._threads.close()
        self._loop.close()
