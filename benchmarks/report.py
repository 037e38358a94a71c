"""Tables of results; see `text`."""

from __future__ import annotations

from typing import Any

from benchmarks.place import ROOT
from benchmarks.scenarios.base import Case

RESULTS = ROOT / "benchmarks" / "results"


def text(case: Case, result: Any) -> str:
    return "\n".join(
        f"{e['title']:40} {e.get('problem') or e['median']}" for e in result["subjects"]
    )
