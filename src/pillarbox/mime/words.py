"""Encoded words (RFC 2047) in UTF-8, the shorter of Q and B, and the folding of lines; pure."""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Iterable

LINE_CHARS = 78
"""RFC 5322 section 2.1.1: what a line should have at most, without its CRLF."""
ENCODED_LINE_CHARS = 76
"""RFC 2047 section 2: what a line that has an encoded word may have."""
WORD_CHARS = 75
"""RFC 2047 section 2: what an encoded word may have at most, delimiters included."""

_FRAME = len("=?utf-8?q??=")
WORD_MIN_CHARS = _FRAME + len("=F0=9F=93=AE")
"""What one of any character takes."""
# The characters that Q may leave alone wherever a word stands, a phrase included (section 5).
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/")
_q_of: dict[str, str] = {" ": "_", **{character: character for character in _PLAIN}}


def encoded_words(text: str, limit: int = WORD_CHARS) -> list[str]:
    """Return ``text`` as encoded words of at most ``limit`` characters, no character divided.

    Raise UnicodeEncodeError for a lone surrogate.
    """
    octets = len(text.encode())
    # Q spends three characters on an octet that is not plain, B four on each three octets.
    q_chars = 3 * octets - 2 * sum(character in _q_of for character in text if character < "\x7f")
    if q_chars <= 4 * octets / 3:
        return [f"=?utf-8?q?{chunk}?=" for chunk in _q_chunks(text, limit - _FRAME)]
    return [f"=?utf-8?b?{chunk}?=" for chunk in _b_chunks(text, limit - _FRAME)]


def _q_chunks(text: str, room: int) -> Iterable[str]:
    chunk = ""
    for character in text:
        piece = _q_of.get(character) or _q(character)
        if len(chunk) + len(piece) > room:
            yield chunk
            chunk = ""
        chunk += piece
    yield chunk


def _q(character: str) -> str:
    return "".join(f"={octet:02X}" for octet in character.encode())


def _b_chunks(text: str, room: int) -> Iterable[str]:
    most = room // 4 * 3
    start = size = 0
    for end, character in enumerate(text):
        octets = len(character.encode())
        if size + octets > most:
            yield _b(text[start:end])
            start, size = end, 0
        size += octets
    yield _b(text[start:])


def _b(text: str) -> str:
    return b2a_base64(text.encode(), newline=False).decode()


def fold(name: str, words: Iterable[str], limit: int) -> str:
    """Return the header field of ``words``, divided by blanks, in lines of ``limit`` where it can.

    A line is never blank, and the first word stays with the name.
    """
    lines: list[str] = []
    line = f"{name}:"
    is_empty = True
    for word in words:
        if not is_empty and len(line) + 1 + len(word) > limit:
            lines.append(line)
            line, is_empty = f" {word}", not word
        else:
            line = f"{line} {word}"
            is_empty = is_empty and not word
    lines.append(line)
    return "\r\n".join(lines) + "\r\n"
