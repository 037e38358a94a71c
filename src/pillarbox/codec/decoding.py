"""The text of ``Message.content`` → the `EmailMessage` that it was."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from email.errors import MessageError
from email.message import Message
from functools import lru_cache
from typing import Any

from django.core.mail import (
    EmailAlternative,
    EmailAttachment,
    EmailMessage,
    EmailMultiAlternatives,
)

from pillarbox.attachments import Reader
from pillarbox.codec.encoding import ADDRESS_LISTS, OPTIONS, VERSION
from pillarbox.codec.parts import unpack_part
from pillarbox.codec.shapes import Envelope, EnvelopeAlternatives, EnvelopeMessage, RawMessage
from pillarbox.codec.values import UNPACKERS, unpacker
from pillarbox.exceptions import PillarboxError

_MALFORMED = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError),
    *(MessageError, RecursionError),
)
_HEAD = f'{{"v":{VERSION},'
_read = json.JSONDecoder().raw_decode


def decode(content: str, blobs: Reader) -> EmailMessage:
    """Return the message as it was, Message-ID and Date in its ``extra_headers``.

    It is one of Django's two classes, whichever the original was or extended, or a `RawMessage`
    where the original wrote its own MIME. Raise PillarboxError if the content is of a version
    that this release does not know or is none, or if bytes of an attachment are gone. What the
    database or a storage raises comes through.
    """
    try:
        return _email(load(content, None if is_plain(content) else _kinds(blobs)))
    except PillarboxError:
        raise
    except _MALFORMED as error:
        raise PillarboxError(
            f"The content cannot be read: {type(error).__name__}. Something else than "
            "django-pillarbox has written to the row."
        ) from error


def is_plain(content: str) -> bool:
    """Whether all of it is what JSON has a word for; so it asks for no attachment either."""
    return "$" not in content or '"$' not in content  # the first look takes a tenth of the second


def _kinds(blobs: Reader) -> dict[str, Callable[[Any], Any]]:
    return {
        **UNPACKERS,
        "$blob": lambda blob: blobs.get(blob[0]),
        "$text": lambda blob: blobs.get(blob[0]).decode("utf-8", "surrogatepass"),
        "$part": unpack_part,
        "$email": _email,
    }


def load(content: str, kinds: Mapping[str, Callable[[Any], Any]] | None) -> dict[str, Any]:
    """Parse content of this version. Raise PillarboxError for any other.

    ``kinds`` None is for content in which everything is what JSON has a word for.
    """
    if not content.startswith(_HEAD):
        raise PillarboxError(
            f"Content that starts with {content[:16]!r} is not of version {VERSION}, the one that "
            "this release of django-pillarbox reads. Run the release that wrote it, or a later one."
        )
    node: dict[str, Any]
    if kinds is not None:
        node = json.loads(content, object_hook=unpacker(kinds))
        return node
    node, end = _read(content)
    if content[end:].strip():
        raise ValueError(f"something follows the content, at character {end}")
    return node


def as_it_stands(
    kinds: Mapping[str, Callable[[Any], Any]],
) -> Mapping[str, Callable[[Any], Any]]:
    """Return ``kinds`` for `load`, every other kind giving its JSON value."""
    return defaultdict(lambda: lambda value: value, kinds)


def _email(node: dict[str, Any]) -> EmailMessage:
    cls = _class(node)
    # As `cls()` and setting everything would have it, in a third of the time.
    email = cls.__new__(cls)
    own = email.__dict__ = {
        **_defaults(cls),  # type: ignore[arg-type]  # mypy asks the instances for their hash
        "subject": node["subject"],
        "from_email": node["from_email"],
        "body": node.get("body", ""),
        "extra_headers": _headers(node),
        "attachments": [],
    }
    for name in ADDRESS_LISTS:
        own[name] = node.get(name, [])
    if "alternatives" in own or "alternatives" in node:
        own["alternatives"] = [EmailAlternative(*item) for item in node.get("alternatives", ())]
    if not _RARE.isdisjoint(node):
        _add_rare(email, node)
    if isinstance(email, Envelope):
        email._recipients = node.get("recipients")
    if isinstance(email, RawMessage):
        raw = node["raw"]
        email.raw = raw.encode("latin-1") if isinstance(raw, str) else raw
    return email


@lru_cache(maxsize=8)
def _defaults(cls: type) -> dict[str, Any]:
    """Return the attributes of an empty message; its lists are not to be used."""
    defaults: dict[str, Any] = vars(cls())
    return defaults


_RARE = frozenset({*OPTIONS, "attributes", "attachments"})


def _add_rare(email: EmailMessage, node: dict[str, Any]) -> None:
    for name in OPTIONS:
        if name in node:
            setattr(email, name, node[name])
    for name, value in node.get("attributes", {}).items():
        setattr(email, name, value)
    email.attachments = [_attachment(item) for item in node.get("attachments", ())]


def _attachment(item: Any) -> Any:
    if isinstance(item, Message):
        return item
    # Django takes two values, too, or refuses them itself.
    return EmailAttachment(*item) if len(item) == 3 else tuple(item)


def _class(node: dict[str, Any]) -> type[EmailMessage]:
    if "raw" in node:
        return RawMessage
    if node.get("class") == "EmailMultiAlternatives":
        return EnvelopeAlternatives if "recipients" in node else EmailMultiAlternatives
    return EnvelopeMessage if "recipients" in node else EmailMessage


def _headers(node: dict[str, Any]) -> dict[str, Any]:
    """Return the headers, the pinned ones first, which is where Django writes them."""
    headers = {}
    if (date := node.get("date")) is not None:
        headers["Date"] = date
    if (message_id := node.get("message_id")) is not None:
        headers["Message-ID"] = message_id
    if "headers" in node:
        headers.update(node["headers"])
    return headers


def attachment_ids(content: str) -> list[int]:
    """Return the ids of the `Attachment` rows that the content needs, each once."""
    ids: dict[int, None] = {}

    def note(blob: list[Any]) -> None:
        ids[blob[0]] = None

    load(content, as_it_stands({"$blob": note, "$text": note}))
    return list(ids)


def message_id(content: str) -> str:
    """Return the Message-ID that will be sent: the pinned one, or the message's own."""
    node = load(content, as_it_stands({}))
    headers = dict(node.get("headers", ()))
    own = (str(value) for name, value in headers.items() if name.lower() == "message-id")
    return node.get("message_id") or next(own, "")
