"""Python values ⇄ JSON values; what JSON has no word for stands as ``{"$kind": …}``."""

from __future__ import annotations

import math
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from email.charset import Charset
from email.header import Header, decode_header, make_header
from email.headerregistry import Address, Group
from typing import Any
from uuid import UUID

from django.utils.functional import Promise

from pillarbox.exceptions import InvalidMessage, Uncarriable

Pack = Callable[[Any], Any]
_ATOMS = frozenset({int, bool, type(None)})
_SPLIT_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


def pack(value: Any, where: str) -> Any:
    """Return ``value`` as JSON has it. Raise Uncarriable, naming ``where``, if that would lose it.

    Lazy text is resolved here, with the language of the caller.
    """
    if type(value) in _ATOMS:
        return value
    if isinstance(value, str):
        return _text(str.__str__(value), where)
    if isinstance(value, Promise):
        return _text(str(value), where)
    if isinstance(value, list):
        return [pack(item, f"{where}[{n}]") for n, item in enumerate(value)]
    if isinstance(value, dict):
        return _pack_dict(value, where)
    if isinstance(value, tuple):
        return {"$tuple": [pack(item, f"{where}[{n}]") for n, item in enumerate(value)]}
    for kinds, to_json in _PACKERS:
        if isinstance(value, kinds):
            return to_json(value)
    raise Uncarriable(
        f"{where} holds {_named(value)}, which cannot be queued without loss. "
        "Put text, numbers, dates, lists or dictionaries there, or delete it before sending."
    )


def _text(value: str, where: str) -> str:
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        # JSON keeps a lone surrogate; of two in a row it makes the character that they spell.
        if _SPLIT_PAIR.search(value):
            raise InvalidMessage(
                f"{where} holds a surrogate pair as two characters, which is no text. "
                'Mend it: value.encode("utf-16", "surrogatepass").decode("utf-16").'
            ) from None
    return value


def _pack_dict(value: dict[Any, Any], where: str) -> dict[str, Any]:
    return as_object(
        [(pack(key, where), pack(item, f"{where}[{key!r}]")) for key, item in value.items()]
    )


def as_object(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    """Return packed keys and values as a JSON object, in which no key starts with ``$``."""
    if all(type(key) is str and key[:1] != "$" for key, _ in pairs):
        return dict(pairs)
    return {"$dict": pairs}


def _named(value: Any) -> str:
    kind = type(value)
    return f"an object of {kind.__module__}.{kind.__qualname__}"


def pack_bytes(value: bytes | bytearray | memoryview) -> dict[str, str]:
    """Return bytes as base64."""
    return {"$bytes": b64encode(value).decode()}


def _pack_float(value: float) -> float | dict[str, str]:
    # NaN and the infinities are no JSON, though Python's encoder writes them.
    return float(value) if math.isfinite(value) else {"$float": repr(float(value))}


def _pack_address(value: Address) -> dict[str, Any]:
    return {"$address": [value.display_name, value.username, value.domain]}


def _pack_group(value: Group) -> dict[str, Any]:
    return {"$group": [value.display_name, [_pack_address(one) for one in value.addresses]]}


def _pack_header(value: Header) -> dict[str, Any]:
    chunks: list[Any] = decode_header(value)  # it takes a Header, too
    return {"$header": [[pack_bytes(text), charset] for text, charset in chunks]}


def _pack_charset(value: Charset) -> dict[str, Any]:
    fields = (value.input_charset, value.header_encoding, value.body_encoding, value.output_charset)
    return {"$charset": list(fields)}


# In this order: a datetime is a date, too.
_PACKERS: tuple[tuple[Any, Pack], ...] = (
    (int, int),
    (float, _pack_float),
    (datetime, lambda value: {"$datetime": value.isoformat()}),
    (date, lambda value: {"$date": value.isoformat()}),
    (time, lambda value: {"$time": value.isoformat()}),
    (timedelta, lambda value: {"$timedelta": [value.days, value.seconds, value.microseconds]}),
    (Decimal, lambda value: {"$decimal": str(value)}),
    (UUID, lambda value: {"$uuid": str(value)}),
    ((bytes, bytearray, memoryview), pack_bytes),
    (Address, _pack_address),
    (Group, _pack_group),
    (Charset, _pack_charset),
    (Header, _pack_header),
)


def _unpack_charset(fields: list[Any]) -> Charset:
    charset = Charset(fields[0])
    charset.header_encoding, charset.body_encoding, charset.output_charset = fields[1:]
    return charset


UNPACKERS: Mapping[str, Callable[[Any], Any]] = {
    "$tuple": tuple,
    "$dict": dict,
    "$float": float,
    "$datetime": datetime.fromisoformat,
    "$date": date.fromisoformat,
    "$time": time.fromisoformat,
    "$timedelta": lambda parts: timedelta(*parts),
    "$decimal": Decimal,
    "$uuid": UUID,
    "$bytes": b64decode,
    "$address": lambda parts: Address(*parts),
    "$group": lambda parts: Group(*parts),
    "$charset": _unpack_charset,
    "$header": make_header,
}


def unpacker(kinds: Mapping[str, Callable[[Any], Any]]) -> Callable[[dict[str, Any]], Any]:
    """Return an ``object_hook`` for `json`, which calls it from the inside out."""

    def hook(node: dict[str, Any]) -> Any:
        if len(node) == 1:
            ((kind, value),) = node.items()
            if kind[:1] == "$":
                return kinds[kind](value)
        return node

    return hook
