"""What a message says, however it was written: for comparing two renderings of one mail."""

from __future__ import annotations

from email import policy
from email.message import EmailMessage as Parsed
from email.parser import BytesParser
from typing import Any

# How it travels, and not what it says. (Django 6 forgets MIME-Version where a message is but
# attachments; the composer writes it.)
_OF_THE_WAY = {"content-transfer-encoding", "mime-version", "content-type"}


def meaning(data: bytes) -> dict[str, Any]:
    """Return structure, headers, parameters and decoded content, parsed by ``policy.default``."""
    return _meaning(BytesParser(policy=policy.default).parsebytes(data))


def _meaning(part: Parsed) -> dict[str, Any]:
    return {
        "headers": sorted(
            (name.lower(), str(value))
            for name, value in part.items()
            if name.lower() not in _OF_THE_WAY
        ),
        "type": part.get_content_type(),
        "parameters": {
            name: value
            for name, value in dict(part["content-type"].params).items()
            if name != "boundary"
        },
        "disposition": part.get_content_disposition(),
        "filename": part.get_filename(),
        "content": (
            [_meaning(child) for child in part.iter_parts()]  # type: ignore[arg-type]
            if part.is_multipart()
            else part.get_payload(decode=True)
        ),
        "defects": [type(defect).__name__ for defect in part.defects],
    }


def faults_of_lines(data: bytes) -> list[str]:
    """Return what RFC 5322 forbids of the lines: over 998 octets, bare CR or LF, NUL."""
    faults = [f"{len(line)} octets" for line in data.split(b"\r\n") if len(line) > 998]
    rest = data.replace(b"\r\n", b"")
    return faults + [name for name, octet in _FORBIDDEN.items() if octet in rest]


_FORBIDDEN = {"bare CR": b"\r", "bare LF": b"\n", "NUL": b"\x00"}
