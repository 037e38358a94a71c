"""The sockets that the loop waits for, and what it waits for on each; it reads and writes none."""

from __future__ import annotations

import selectors
from typing import cast

from pillarbox.delivery.senders.opening import Opener
from pillarbox.delivery.senders.talks import Talk


class Sockets:
    """The connections in the loop's hands, and the opener that wakes it."""

    def __init__(self, opener: Opener) -> None:
        self._selector = selectors.DefaultSelector()
        self._selector.register(opener, selectors.EVENT_READ)

    def ready(self, timeout_s: float) -> list[Talk | Opener]:
        """Wait up to ``timeout_s`` and return those on which there is something to be done."""
        found = self._selector.select(timeout_s)
        return [cast("Opener", key.fileobj) if key.data is None else key.data for key, _ in found]

    def add(self, talk: Talk) -> None:
        """Wait for what the server says."""
        talk.is_attached, talk.mask = True, talk.wire.mask
        self._selector.register(talk.wire.sock, talk.mask, talk)

    def watch(self, talk: Talk) -> None:
        """Wait for room to write, too, where there is output, and no longer where there is none."""
        wire = talk.wire
        mask = wire.mask | wire.writing_mask if talk.pipeline.has_output else wire.mask
        if mask != talk.mask and talk.is_attached:
            talk.mask = mask
            self._selector.modify(talk.wire.sock, mask, talk)

    def remove(self, talk: Talk) -> None:
        """Wait for nothing more on the connection."""
        talk.is_attached = False
        self._selector.unregister(talk.wire.sock)

    def close(self) -> None:
        """Forget everything."""
        self._selector.close()
