"""A connected socket that never blocks, plain or TLS; it knows nothing of SMTP."""

from __future__ import annotations

import selectors
import smtplib
import socket
import ssl
from contextlib import suppress

READ_BYTES = 64 * 1024
TLS_BLOCK_BYTES = 16 * 1024
"""One TLS record (RFC 8446 5.1): of more, some may have left though the write is not reported."""
_LATER = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Wire:
    """The socket of an open ``smtplib.SMTP``, for as long as a loop drives it."""

    def __init__(self, smtp: smtplib.SMTP) -> None:
        assert smtp.sock is not None
        self._smtp = smtp
        self.sock: socket.socket = smtp.sock
        self._timeout_s = self.sock.gettimeout()
        self.is_tls = isinstance(self.sock, ssl.SSLSocket)
        self.sock.setblocking(False)
        with suppress(OSError):  # not every socket is TCP's
            # Else the last piece of a long body would wait for the acknowledgement of the rest.
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reads_when = self._writes_when = 0
        self._is_open = True

    def fileno(self) -> int:
        """The socket's own, for a selector."""
        return self.sock.fileno()

    def unread(self) -> bytes:
        """Return what smtplib has read from the socket beyond the last reply."""
        file = self._smtp.file
        if file is None:
            return b""
        try:
            kept = file.peek()
        except OSError:  # TLS: there is nothing
            return b""
        return file.read1(len(kept)) if kept else b""

    def events(self, *, writes: bool) -> int:
        """Return the selector's events to wait for."""
        events = selectors.EVENT_READ | self._reads_when
        if writes:
            events |= self._writes_when or selectors.EVENT_WRITE
        return events

    def read(self) -> tuple[bytes, bool]:
        """Return what has come, and whether that was the end. Raise OSError as the socket does."""
        found: list[bytes] = []
        self._reads_when = 0
        try:
            while True:
                octets = self.sock.recv(READ_BYTES)
                if not octets:
                    return b"".join(found), True
                found.append(octets)
                if not self.is_tls and len(octets) < READ_BYTES:
                    break
        except ssl.SSLWantWriteError:
            self._reads_when = selectors.EVENT_WRITE
        except _LATER:
            pass
        except OSError:
            if not found:
                raise
        return b"".join(found), False

    def write(self, block: bytes | memoryview) -> int:
        """Return how much was taken, 0 where nothing can be now. Raise OSError."""
        self._writes_when = 0
        try:
            return self.sock.send(block)
        except ssl.SSLWantReadError:
            self._writes_when = selectors.EVENT_READ
        except _LATER:
            pass
        return 0

    def release(self) -> None:
        """Give the socket back as it was, for smtplib to go on with."""
        self.sock.settimeout(self._timeout_s)

    def close(self) -> None:
        """Hang up, without a word."""
        self._smtp.close()
