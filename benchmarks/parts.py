"""Says of a sampled stack which part of the product it serves, and whose code is running.

A stack belongs to the innermost module of the product that a part names: what `ledger` lets Django
and the driver do is the ledger's. The layer is that of the code on top.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

PARTS = {
    "claim": "claim",
    "ledger": "begin and record",
    "compose": "read and compose",
    "wire": "talk SMTP",
    "report": "report",
    "loop": "the loop, and the rest",
}
"""The parts by their keys, with their titles."""
LAYERS = {
    "own": "own code",
    "django": "Django",
    "driver": "database driver",
    "library": "Python's library",
}

MODULES = {
    "delivery/senders/letters": "compose",  # before the other senders, which talk SMTP
    "delivery/claiming": "claim",
    "delivery/claims": "claim",
    "delivery/limits": "claim",
    "delivery/looks": "claim",
    "delivery/turns": "claim",
    "delivery/ways": "claim",
    "delivery/ledger": "ledger",
    "delivery/prepared": "ledger",
    "delivery/recording": "ledger",
    "delivery/verdicts": "ledger",
    "delivery/parcels": "compose",
    "codec/": "compose",
    "mime/": "compose",
    "backends/smtp": "wire",
    "delivery/senders/": "wire",
    "delivery/report": "report",
    "signals": "report",
}
"""Modules of the product by the start of their paths; one that is not here serves its caller."""
_DRAIN = "delivery/"
_FRAME = re.compile(r"^(?P<function>.*) \((?P<path>.*?)(:\d+)?\)$")
_PRODUCT = re.compile(r".*/pillarbox/((?!.*/pillarbox/).*)\.py$")
_DRIVER = re.compile(r"/(psycopg|sqlite3)")

Stack = list[str]
"""Frames as py-spy writes them, ``function (path:line)``, the outermost first."""


def stacks(raw: str) -> Iterable[tuple[Stack, int]]:
    """Return the stacks of py-spy's raw format, each with the number of its samples."""
    for line in raw.splitlines():
        frames, _, count = line.rpartition(" ")
        yield frames.split(";"), int(count)


def count(found: Iterable[tuple[Stack, int]]) -> dict[str, Counter[str]]:
    """Return the samples of the drain by part and layer; a process's start does not count."""
    counted: dict[str, Counter[str]] = {part: Counter() for part in PARTS}
    for stack, samples in found:
        if part := _part(stack):
            counted[part][_layer(stack[-1])] += samples
    return counted


def _part(stack: Stack) -> str | None:
    """Return the part that a stack serves, None where no drain is on it."""
    modules = [module for frame in stack if (module := _module(frame))]
    if not any(module.startswith(_DRAIN) for module in modules):
        return None
    for module in reversed(modules):
        for start, part in MODULES.items():
            if module.startswith(start):
                return part
    return "loop"


def _module(frame: str) -> str:
    """Return the path within the product, without its ending; empty for others and for imports."""
    found = _FRAME.match(frame)
    if found is None or found["function"] == "<module>":
        return ""
    product = _PRODUCT.match(found["path"])
    return product[1] if product else ""


def _layer(frame: str) -> str:
    path = found["path"] if (found := _FRAME.match(frame)) else ""
    if _PRODUCT.match(path):
        return "own"
    if "/site-packages/django/" in path:
        return "django"
    return "driver" if _DRIVER.search(path) else "library"
