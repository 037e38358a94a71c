"""A TCP proxy that holds everything back for a while: ``python -m benchmarks.delay_proxy 2525``.

With 10 ms each way, a local server is as far off as one with 20 ms of round-trip time. Nothing is
reordered and the bandwidth is not limited. Prints the port that it listens on.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import deque
from typing import cast

ONE_WAY_S = 0.010


class Leg(asyncio.Protocol):
    """One side of a connection; what it reads, the other side writes later."""

    def __init__(self, delay_s: float, other: Leg | None = None) -> None:
        self.delay_s = delay_s
        self.other = other
        self.transport: asyncio.Transport | None = None
        self._held: deque[bytes | None] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Hold it back."""
        self._hold(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the other side after everything that is still held."""
        self._hold(None)

    def _hold(self, data: bytes | None) -> None:
        self._held.append(data)
        asyncio.get_running_loop().call_later(self.delay_s, self._let_go)

    def _let_go(self) -> None:
        # The oldest, whichever timer rings: two of the same moment may ring in either order.
        data = self._held.popleft()
        transport = self.other.transport if self.other else None
        if transport is None or transport.is_closing():
            return
        if data is None:
            transport.close()
        else:
            transport.write(data)


class Front(Leg):
    """The client's side, which connects to the server."""

    def __init__(self, delay_s: float, port: int) -> None:
        super().__init__(delay_s)
        self.port = port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open the way to the server; until then what comes waits."""
        super().connection_made(transport)
        self.opening = asyncio.get_running_loop().create_task(self._open())

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        self.other = behind = Leg(self.delay_s, self)
        await loop.create_connection(lambda: behind, "127.0.0.1", self.port)


async def serve(port: int, delay_s: float = ONE_WAY_S) -> None:
    """Forward to a port of loopback until cancelled."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Front(delay_s, port), "127.0.0.1", 0, backlog=256)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    """Serve from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.delay_proxy")
    parser.add_argument("port", type=int, help="the server's, on 127.0.0.1")
    parser.add_argument("--one-way-ms", type=float, default=ONE_WAY_S * 1000)
    options = parser.parse_args()
    asyncio.run(serve(options.port, options.one_way_ms / 1000))


if __name__ == "__main__":
    main()
