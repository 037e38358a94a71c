"""Hashes that tell whether two calls meant the same mail."""

from __future__ import annotations

import json
from email.message import Message
from email.parser import BytesParser
from hashlib import sha256
from typing import Any

_PINS = ("message_id", "date")
_SECRETS = ("subject", "body", "alternatives", "attachments", "attributes", "raw", "digest")


def fingerprint(content: str, *, sensitive: bool) -> str:
    """Return the SHA-256 of encoded content, without what each call makes anew.

    That is Message-ID and Date where they were pinned, and the numbers of attachments, which
    count by the hash of their bytes. With ``sensitive`` the subject, the bodies, the attachments
    and the attributes (merge data) are left out: a hash of a six-digit code reveals it.
    """
    node: dict[str, Any] = json.loads(content, object_hook=_canonical)
    for name in (*_PINS, *(_SECRETS if sensitive else ())):
        node.pop(name, None)
    if "digest" in node:
        node["raw"] = node.pop("digest")
    return _sha256(node)


def _canonical(node: dict[str, Any]) -> dict[str, Any]:
    for kind in node.keys() & {"$blob", "$text"}:
        node[kind] = node[kind][1]
    if "$email" in node:
        for name in _PINS:
            node["$email"].pop(name, None)
    return node


def _sha256(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()


def raw_digest(raw: bytes) -> str:
    """Return the SHA-256 of a rendered message, whatever its Message-ID, Date and boundaries."""
    message = BytesParser().parsebytes(raw)
    del message["Message-ID"], message["Date"]
    return _sha256([_describe(part) for part in message.walk()])


def _describe(part: Message) -> list[Any]:
    if part.is_multipart():
        part.del_param("boundary")
    headers = sorted([name.lower(), str(value)] for name, value in part.items())
    payload = part.get_payload(decode=True)
    return [headers, sha256(payload).hexdigest() if isinstance(payload, bytes) else None]
