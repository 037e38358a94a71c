"""A connected socket that never blocks, plain or TLS; it knows nothing of SMTP."""

from __future__ import annotations

import selectors
import smtplib
import socket
import ssl
from contextlib import suppress

READ_BYTES = 16 * 1024
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
        self.mask = selectors.EVENT_READ
        """The selector's events to wait for where there is nothing to be written."""
        self.writing_mask = selectors.EVENT_READ | selectors.EVENT_WRITE
        """And where there is."""

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

    def read(self) -> tuple[bytes, bool]:
        """Return what has come, and whether that was the end. Raise OSError as the socket does."""
        if self.is_tls:
            return self._read_tls()
        try:
            octets = self.sock.recv(READ_BYTES)
        except _LATER:
            return b"", False
        return octets, not octets

    def _read_tls(self) -> tuple[bytes, bool]:
        """Read on until there is no more: what TLS has read ahead wakes no selector."""
        found: list[bytes] = []
        self.mask = selectors.EVENT_READ
        try:
            while octets := self.sock.recv(READ_BYTES):
                found.append(octets)
            return b"".join(found), True
        except ssl.SSLWantWriteError:
            self.mask = selectors.EVENT_READ | selectors.EVENT_WRITE
        except _LATER:
            pass
        except OSError:
            if not found:
                raise
        return b"".join(found), False

    def write(self, block: bytes | memoryview) -> int:
        """Return how much was taken, 0 where nothing can be now. Raise OSError."""
        if not self.is_tls:
            try:
                return self.sock.send(block)
            except _LATER:
                return 0
        self.writing_mask = selectors.EVENT_READ | selectors.EVENT_WRITE
        try:
            return self.sock.send(block)
        except ssl.SSLWantReadError:
            self.writing_mask = selectors.EVENT_READ
        except _LATER:
            pass
        return 0

    def release(self) -> None:
        """Give the socket back as it was, for smtplib to go on with."""
        self.sock.settimeout(self._timeout_s)

    def close(self) -> None:
        """Hang up, without a word."""
        self._smtp.close()
