"""A server's octets, cut into replies wherever they were split on their way; no sockets."""

from __future__ import annotations

from pillarbox.delivery.outcomes import Reply, replies

LINE_MAX_BYTES = 8192
"""As smtplib's own; RFC 5321 4.5.3.1.5 asks for no more than 512."""
REPLY_MAX_BYTES = 256 * 1024
"""What a reply that never ends may cost."""


class Answers:
    """Takes octets and gives whole replies, read as smtplib's ``getreply`` reads them."""

    def __init__(self) -> None:
        self._unread = bytearray()
        self._lines: list[bytes] = []
        self._size_bytes = 0

    @property
    def is_between(self) -> bool:
        """Whether nothing of an unfinished reply is there."""
        return not self._unread and not self._lines

    def take(self, octets: bytes) -> list[Reply]:
        """Return the replies that ``octets`` complete; what is no SMTP is a reply without a code.

        A reply that is too long is one, too. Whoever gets it hangs up, so that what follows it
        is of no interest.
        """
        self._unread += octets
        found: list[Reply] = []
        while (end := self._unread.find(b"\n")) >= 0:
            line = bytes(self._unread[: end + 1])
            del self._unread[: end + 1]
            reply = self._line(line)
            if reply is not None:
                found.append(reply)
        if len(self._unread) > LINE_MAX_BYTES:
            self._unread.clear()
            found.append(self._too_long())
        return found

    def _line(self, line: bytes) -> Reply | None:
        """Take one line; return the reply that it ends."""
        self._size_bytes += len(line)
        if len(line) > LINE_MAX_BYTES or self._size_bytes > REPLY_MAX_BYTES:
            return self._too_long()
        self._lines.append(line[4:].strip(b" \t\r\n"))
        try:
            code = int(line[:3])
        except ValueError:
            return self._whole(-1)
        return None if line[3:4] == b"-" else self._whole(code)

    def _whole(self, code: int) -> Reply:
        text = b"\n".join(self._lines)
        self._lines, self._size_bytes = [], 0
        return replies.parse(code, text)

    def _too_long(self) -> Reply:
        self._lines, self._size_bytes = [], 0
        return Reply(text="Line too long.")
