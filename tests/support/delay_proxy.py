"""A TCP proxy that is far away: every octet takes ``delay_s`` each way. It counts the turns.

    with delay_proxy(server, delay_s=0.01) as far:
        …  # connect to far.host, far.port
    assert far.turns == 12  # how often the client spoke after the server had

One thread each way and connection; order is kept, and nothing is held up behind anything else.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol


class Server(Protocol):
    """A server of tests/support."""

    host: str
    port: int


@dataclass
class Far:
    """The proxy's end that clients connect to."""

    host: str
    port: int
    turns: int = 0
    connections: int = 0
    _server_spoke: dict[int, bool] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, connection: int, *, from_client: bool) -> None:
        """Count a turn where the client speaks for the first time since the server did."""
        with self._lock:
            if not from_client:
                self._server_spoke[connection] = True
            elif self._server_spoke.pop(connection, False):
                self.turns += 1


@contextmanager
def delay_proxy(server: Server, *, delay_s: float) -> Iterator[Far]:
    """Run the proxy on a free port of 127.0.0.1 while the block lasts."""
    listener = socket.create_server(("127.0.0.1", 0))
    far = Far(*listener.getsockname()[:2])
    ends: list[socket.socket] = []

    def listen() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                behind = socket.create_connection((server.host, server.port))
                ends.extend([client, behind])
                far.connections += 1
                _carry(far, far.connections, client, behind, delay_s, from_client=True)
                _carry(far, far.connections, behind, client, delay_s, from_client=False)

    threading.Thread(target=listen, daemon=True).start()
    try:
        yield far
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for end in ends:
            end.close()


def _carry(
    far: Far,
    connection: int,
    source: socket.socket,
    target: socket.socket,
    delay_s: float,
    *,
    from_client: bool,
) -> None:
    """Carry one direction of one connection: one thread reads, another writes in time."""
    under_way: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def read() -> None:
        octets = b"."
        while octets:
            try:
                octets = source.recv(65536)
            except OSError:
                octets = b""
            if octets:
                far.note(connection, from_client=from_client)
            under_way.put((time.monotonic() + delay_s, octets))

    def write() -> None:
        with suppress(OSError):
            while True:
                due, octets = under_way.get()
                time.sleep(max(0.0, due - time.monotonic()))
                if not octets:
                    target.shutdown(socket.SHUT_WR)
                    return
                target.sendall(octets)

    for work in (read, write):
        threading.Thread(target=work, daemon=True).start()
