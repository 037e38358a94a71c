"""A result as rows of text: medians, the range of the rounds, and the ratio to a reference."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.scenarios.base import Case


def titles(case: Case) -> list[str]:
    """Return the titles of the columns."""
    return [
        "",
        *list(case.columns.values())[:1],
        case.ratio_title,
        *list(case.columns.values())[1:],
    ]


def rows(case: Case, result: Any) -> list[list[str]]:
    """Return a row a subject; one that does not run has its reason for all figures."""
    return [_row(case, entry, _reference(case, result)) for entry in result["subjects"]]


def _row(case: Case, entry: Any, reference: Any) -> list[str]:
    if "problem" in entry:
        return [entry["title"], entry["problem"], *[""] * len(case.columns)]
    first, *others = [_median(entry, key) for key in case.columns]
    return [entry["title"], first, _ratio(case, entry, reference), *others]


def _reference(case: Case, result: Any) -> Any:
    """Return the figure that the others are compared with, None where it was not measured."""
    measured = {e["name"]: e["median"] for e in result["subjects"] if "median" in e}
    for name in case.references:
        if name in measured:
            return measured[name][case.figure]
    return None


def _ratio(case: Case, entry: Any, reference: Any) -> str:
    own = entry["median"][case.figure]
    if reference is None or not own:
        return ""
    better = reference / own if case.more_is_better else own / reference
    return f"{number(better)} ×"


def _median(entry: Any, key: str) -> str:
    """Return the median, and in brackets the lowest and the highest round if they differ."""
    every = [figures[key] for figures in entry["rounds"]]
    low, high = number(min(every)), number(max(every))
    text = number(entry["median"][key])
    return text if low == high else f"{text} ({low} to {high})"


def markdown(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of a page."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float) -> str:
    """Return it with three digits that count, thousands apart: 0.0123, 1.23, 123, 12,345."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
