"""The parcels that wait for one mailer, one stream after the other; no threads, no sockets."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterator

from pillarbox.delivery.senders.base import Parcel


class Shares:
    """A queue that each stream has its turn in, however much another one has waiting.

    Within a stream the order is that of the claims. Two mails of ``codes`` put behind three of
    ``bulk`` go as bulk, codes, bulk, codes, bulk.
    """

    def __init__(self) -> None:
        self._streams: dict[str, deque[Parcel]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __bool__(self) -> bool:
        return bool(self._streams)

    def __iter__(self) -> Iterator[Parcel]:
        return (parcel for waiting in self._streams.values() for parcel in waiting)

    def put(self, parcel: Parcel) -> None:
        """Take a parcel behind those of its stream; a new stream is behind the others."""
        self._count += 1
        self._waiting(parcel).append(parcel)

    def put_back(self, parcel: Parcel) -> None:
        """Take a parcel that was taken too early: it is the first of its stream again."""
        self._count += 1
        self._waiting(parcel).appendleft(parcel)

    def _waiting(self, parcel: Parcel) -> deque[Parcel]:
        stream = parcel.message.stream
        waiting = self._streams.get(stream)
        if waiting is None:
            waiting = self._streams[stream] = deque()
        return waiting

    def next_stream(self, but: Container[str] = ()) -> str | None:
        """Return the stream whose turn it is, passing over some; None where nothing is left."""
        for stream in self._streams:
            if stream not in but:
                return stream
        return None

    def take(self, but: Container[str] = ()) -> Parcel | None:
        """Return the next parcel, of the stream whose turn it is, which goes behind the others."""
        stream = self.next_stream(but)
        if stream is None:
            return None
        waiting = self._streams.pop(stream)
        parcel = waiting.popleft()
        self._count -= 1
        if waiting:
            self._streams[stream] = waiting
        return parcel

    def clear(self) -> None:
        """Forget everything."""
        self._count = 0
        self._streams.clear()
