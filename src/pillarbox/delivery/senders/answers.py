"""A server's octets, cut into replies wherever they were split on their way; no sockets."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from functools import lru_cache

from pillarbox.delivery.outcomes import Reply, replies

LINE_MAX_BYTES = 8192
"""As smtplib's own; RFC 5321 4.5.3.1.5 asks for no more than 512."""
REPLY_MAX_BYTES = 256 * 1024
"""What a reply that never ends may cost."""
CACHED_LINE_BYTES = 512
"""A server says the same few lines to every mail; a longer one is read anew each time."""


class Ask(Enum):
    """What a reply is awaited for."""

    MAIL = auto()
    RCPT = auto()
    DATA = auto()
    DOT = auto()
    LONE_DOT = auto()
    RSET = auto()


class Answers:
    """Takes octets and gives whole replies, read as smtplib's ``getreply`` reads them."""

    def __init__(self) -> None:
        self._unread = b""
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
        if self.is_between and len(octets) <= CACHED_LINE_BYTES:
            # The reply to a dot may name the mail; what follows it is the same after all of them.
            first, newline, rest = octets.partition(b"\n")
            others = _replies(rest)
            if newline and others is not None and first[3:4] != b"-":
                return [_whole(first), *others]
        *lines, self._unread = (self._unread + octets).split(b"\n")
        found = [reply for line in lines if (reply := self._line(line)) is not None]
        if len(self._unread) > LINE_MAX_BYTES:
            self._unread = b""
            found.append(self._too_long())
        return found

    def _line(self, line: bytes) -> Reply | None:
        """Take one line, its LF aside; return the reply that it ends."""
        size_bytes = len(line) + 1
        if not self._lines and line[3:4] != b"-" and size_bytes <= CACHED_LINE_BYTES:
            return _whole(line)
        self._size_bytes += size_bytes
        if size_bytes > LINE_MAX_BYTES or self._size_bytes > REPLY_MAX_BYTES:
            return self._too_long()
        self._lines.append(line)
        if line[3:4] == b"-" and _code(line) is not None:
            return None
        lines, self._lines, self._size_bytes = self._lines, [], 0
        return _reply(lines)

    def _too_long(self) -> Reply:
        self._lines, self._size_bytes = [], 0
        return Reply(text="Line too long.")


def _reply(lines: Sequence[bytes]) -> Reply:
    text = b"\n".join(line[4:].strip(b" \t\r") for line in lines)
    code = _code(lines[-1])
    return replies.parse(-1 if code is None else code, text)


@lru_cache(maxsize=256)
def _replies(octets: bytes) -> tuple[Reply, ...] | None:
    """Return the replies that these are; None where they end in the middle of one."""
    answers = Answers()
    *lines, unread = octets.split(b"\n")
    found = tuple(reply for line in lines if (reply := answers._line(line)) is not None)
    return None if unread or not answers.is_between else found


@lru_cache(maxsize=256)
def _whole(line: bytes) -> Reply:
    """Return the reply of one line alone, as nearly all are."""
    return _reply([line])


def _code(line: bytes) -> int | None:
    """Return the number that a line begins with, None where it is no SMTP."""
    try:
        return int(line[:3])
    except ValueError:
        return None
