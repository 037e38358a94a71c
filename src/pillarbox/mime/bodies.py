"""The body of one part: line ends, the transfer encoding (RFC 2045 section 6), its bytes; pure."""

from __future__ import annotations

from binascii import b2a_base64, b2a_qp
from functools import lru_cache

from pillarbox.mime.headers import MAX_OCTETS

CACHED_BYTES = 64 * 1024
"""A longer text or attachment is encoded anew each time: the caches must stay small."""


Body = tuple[bytes, str]
"""Encoded content, and the name of its encoding."""
_NUL, _CR = b"\x00\r"
"""As numbers: to look for one in bytes takes a fifth of what it takes to look for a slice."""


def text(value: str, *, eight_bit: bool, ends_line: bool) -> Body | None:
    """Return a text in UTF-8 as it is, or as quoted-printable or base64 where it cannot be.

    Bare CR and LF become CRLF, as Django's direct send makes them. With ``ends_line`` the text gets
    a line end at its end, as Django 6 gives it. None for a lone surrogate or NUL.
    """
    try:
        content = value.encode()
    except UnicodeEncodeError:
        return None
    if _NUL in content:
        return None
    if _CR in content:
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if ends_line and not content.endswith(b"\n"):
        content += b"\n"
    is_ascii = value.isascii()
    is_short = len(content) <= MAX_OCTETS or not _has_long_line(content)
    if (is_ascii or eight_bit) and is_short:
        return content.replace(b"\n", b"\r\n"), "7bit" if is_ascii else "8bit"
    # Plain text is written as fast as it is looked up; these two are not.
    return _cached(content) if len(content) <= CACHED_BYTES else _encoded(content)


def _has_long_line(content: bytes) -> bool:
    """Whether a line has over 998 octets; jumps from line end to line end, the farthest ones."""
    start, end = 0, len(content)
    while end - start > MAX_OCTETS:
        newline = content.rfind(b"\n", start, start + MAX_OCTETS + 1)
        if newline < 0:
            return True
        start = newline + 1
    return False


def _encoded(content: bytes) -> Body:
    # Three characters for an octet, or four for three octets: the shorter one, by a glance.
    foreign = len(content) - len(content.translate(None, _FOREIGN))
    if 2 * foreign > len(content) / 3:
        return base64(content.replace(b"\n", b"\r\n")), "base64"
    return b2a_qp(content).replace(b"\n", b"\r\n"), "quoted-printable"


_cached = lru_cache(maxsize=64)(_encoded)
_FOREIGN = bytes(range(128, 256))


def binary(content: bytes) -> Body:
    """Return bytes as base64."""
    if len(content) <= CACHED_BYTES:
        return _cached_binary(content)
    return base64(content), "base64"


@lru_cache(maxsize=16)
def _cached_binary(content: bytes) -> Body:
    return base64(content), "base64"


def base64(content: bytes) -> bytes:
    """Return base64 in lines of 76 characters (RFC 2045 section 6.8), the last one ended too."""
    packed = b2a_base64(content, newline=False)
    lines = [packed[start : start + 76] for start in range(0, len(packed), 76)]
    return b"\r\n".join([*lines, b""]) if lines else b""
