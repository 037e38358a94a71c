"""Draws results: bars of a case, lines of a soak; the same result gives the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot  # after the choice of what draws

from benchmarks import tables
from benchmarks.scenarios.base import Case

OURS, OTHERS, SECOND = "#c0392b", "#7f8c8d", "#bdc3c7"
LINES = (OURS, OTHERS)
NEEDS_LOGARITHM = 30
"""Where the longest bar is so many times the shortest, the shortest would not be seen."""

mpl.rcParams.update({"svg.hashsalt": "pillarbox", "svg.fonttype": "none", "font.size": 9})


def draw(case: Case, result: Any, path: Path) -> None:
    """Draw one result into an SVG file."""
    entries = [entry for entry in result["subjects"] if "median" in entry][::-1]
    height = 0.34 * len(entries) * max(1.0, 0.7 * len(case.plotted)) + 0.9
    figure, axes = pyplot.subplots(figsize=(7.5, height), layout="constrained")
    thickness = 0.8 / len(case.plotted)
    for place, key in enumerate(case.plotted):
        offset = (len(case.plotted) - 1) / 2 - place
        _bars(axes, entries, key, thickness, offset * thickness, is_first=place == 0)
    axes.set_yticks(range(len(entries)), [entry["title"] for entry in entries])
    axes.set_xlabel(" and ".join(case.columns[key] for key in case.plotted))
    values = [entry["median"][key] for entry in entries for key in case.plotted]
    if max(values) > NEEDS_LOGARITHM * min(values):
        axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def draw_soak(result: Any, path: Path) -> None:
    """Draw how a soak went, minute by minute, into an SVG file."""
    samples = result["samples"]
    figure, panels = pyplot.subplots(4, figsize=(7.5, 7.5), sharex=True, layout="constrained")
    for axes, (title, lines) in zip(panels, _soak_panels(samples).items(), strict=True):
        for colour, (label, values) in zip(LINES, lines.items(), strict=False):
            axes.plot([one["minute"] for one in samples], values, color=colour, label=label)
        axes.set_ylabel(title)
        axes.set_ylim(bottom=0)
        axes.legend(loc="lower right", frameon=False, ncols=len(lines), fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("minutes")
    _save(figure, path)


def _soak_panels(samples: list[Any]) -> dict[str, dict[str, list[float]]]:
    """Return the lines of each panel by their labels."""
    messages = [one["tables"]["message"] for one in samples]
    return {
        "messages": {key: [one[key] for one in messages] for key in ("rows", "dead")},
        "MB on disk": {
            "table": [one["table_mb"] for one in messages],
            "its indexes": [one["indexes_mb"] for one in messages],
        },
        "worker, MB": {"memory": [one["worker_mb"] for one in samples]},
        "queued to begun, ms": {
            "p50": [one["wait_p50_ms"] for one in samples],
            "p99": [one["wait_p99_ms"] for one in samples],
        },
    }


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _bars(
    axes: Any, entries: list[Any], key: str, thickness: float, offset: float, *, is_first: bool
) -> None:
    medians = [entry["median"][key] for entry in entries]
    every = [[figures[key] for figures in entry["rounds"]] for entry in entries]
    below = [median - min(of) for median, of in zip(medians, every, strict=True)]
    above = [max(of) - median for median, of in zip(medians, every, strict=True)]
    bars = axes.barh(
        [n + offset for n in range(len(entries))],
        medians,
        thickness,
        xerr=[below, above],
        color=[_colour(entry, is_first=is_first) for entry in entries],
        error_kw={"elinewidth": 0.8, "ecolor": "#2c3e50"},
    )
    axes.bar_label(bars, [tables.number(median) for median in medians], padding=4, fontsize=8)


def _colour(entry: Any, *, is_first: bool) -> str:
    if entry["name"].startswith("pillarbox"):
        return OURS if is_first else "#e6b0aa"
    return OTHERS if is_first else SECOND
