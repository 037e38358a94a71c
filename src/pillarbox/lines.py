"""Line ends as SMTP wants them; pure, imports nothing of the package."""

from __future__ import annotations

import re

_LINE_END = re.compile(rb"\r\n|\r|\n")


def with_crlf(data: bytes) -> bytes:
    """Return ``data`` with CRLF for every bare CR and bare LF; the same object where there is none.

    RFC 5321 2.3.8 forbids both in a message on its way: a server that takes LF.LF or CR.CR for
    its end would read what follows as another mail, of anybody's choice. Django's generator
    writes text parts so, too. ``"\\r\\r\\n"`` is two line ends, as it is there::

        b"a\\nb"      b"a\\r\\nb"
        b"a\\r.\\rb"  b"a\\r\\n.\\r\\nb"
        b"a\\r\\nb"   b"a\\r\\nb"
    """
    # A quarter of what counting takes, or a pattern; what is mended here is rare.
    if data.replace(b"\r", b"").replace(b"\n", b"\r\n") == data:
        return data
    return _LINE_END.sub(b"\r\n", data)


def stuffed(data: bytes) -> bytes:
    """Return what follows DATA: each leading dot doubled, the final dot at the end.

    RFC 5321 4.5.2. ``data`` has CRLF only, so that every line start is seen.
    """
    body = data.replace(b"\r\n.", b"\r\n..")  # a tenth of what a pattern takes
    if body.startswith(b"."):
        body = b"." + body
    return body + (b".\r\n" if body.endswith(b"\r\n") else b"\r\n.\r\n")
