"""MIME parts that a caller built with Python's `email` ⇄ JSON values; nothing is rendered.

Header by header and payload by payload, because writing a part out and parsing it again would
refold its headers, and would give the caller's own part a boundary.
"""

from __future__ import annotations

from email.header import Header
from email.message import Message, MIMEPart
from email.mime.base import MIMEBase
from typing import Any

from pillarbox.addresses import characters
from pillarbox.attachments import Writer
from pillarbox.codec.values import pack

Content = str | bytes | bytearray | memoryview | None


class _Base(MIMEBase):
    # MIMEBase sets headers of its own, and these come from the row.
    def __init__(self) -> None:
        Message.__init__(self)


def pack_part(part: Message[Any, Any], blobs: Writer) -> dict[str, Any]:
    """Return the part, its leaves' payloads put into ``blobs``."""
    payload = vars(part)["_payload"]  # get_payload() decodes what is not ASCII
    node: dict[str, Any] = {
        "kind": _kind(part),
        "headers": [_pack_header(name, value) for name, value in part.raw_items()],
        "payload": (
            [pack_part(child, blobs) for child in payload]
            if isinstance(payload, list)
            else pack_blob(payload, blobs)
        ),
    }
    for name in ("preamble", "epilogue"):
        if (text := getattr(part, name)) is not None:
            node[name] = text
    if part.get_default_type() != "text/plain":
        node["default_type"] = part.get_default_type()
    return node


def _kind(part: Message[Any, Any]) -> str:
    if isinstance(part, MIMEPart):
        return "modern"
    return "mimebase" if isinstance(part, MIMEBase) else "message"


def _pack_header(name: str, value: Any) -> list[Any]:
    if isinstance(value, Header):
        return [name, pack(value, name)]
    # A value that was set, and not read from a source, is an object of the header registry.
    text = characters(value)
    return [name, text, True] if hasattr(value, "name") else [name, text]


def pack_blob(content: Content, blobs: Writer) -> dict[str, Any] | None:
    """Put bytes or text into ``blobs`` and return ``{"$blob" or "$text": [number, SHA-256]}``."""
    if content is None:
        return None
    if isinstance(content, str):
        pk = blobs.put(content.encode("utf-8", "surrogatepass"))
        return {"$text": [pk, blobs.digest(pk)]}
    pk = blobs.put(bytes(content))
    return {"$blob": [pk, blobs.digest(pk)]}


def unpack_part(node: dict[str, Any]) -> Message[Any, Any]:
    """Return the part; ``node`` has its payloads already."""
    part: Message[Any, Any] = _KINDS[node["kind"]]()
    for name, value, *is_parsed in node["headers"]:
        if is_parsed:
            name, value = part.policy.header_store_parse(name, value)
        part.set_raw(name, value)
    payload = node["payload"]
    part.set_payload(
        [unpack_part(child) for child in payload] if isinstance(payload, list) else payload
    )
    part.preamble, part.epilogue = node.get("preamble"), node.get("epilogue")
    part.set_default_type(node.get("default_type", "text/plain"))
    return part


_KINDS: dict[str, Any] = {"modern": MIMEPart, "mimebase": _Base, "message": Message}
