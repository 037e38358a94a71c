"""Ports for the servers that a test starts as programs of their own."""

from __future__ import annotations

import socket
import time


def free_port() -> int:
    """Return a port of loopback that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def wait_for_port(port: int, *, timeout_s: float = 10) -> None:
    """Return once somebody listens. Raise ConnectionRefusedError if nobody ever does."""
    give_up_at = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.05)
        else:
            return
