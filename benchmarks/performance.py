"""Fills the marked blocks of docs/explanation/performance.md with the results that are kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import kept, parts, sampling, tables
from benchmarks.place import ROOT

PAGE = ROOT / "docs" / "explanation" / "performance.md"
PLOTS = PAGE.with_suffix("")

_BLOCK = re.compile(
    r"(?P<begin><!-- (?P<name>\w+): python -m benchmarks\.report writes this -->\n)"
    r".*?(?P<end><!-- end -->)",
    re.DOTALL,
)
FIGURES: Mapping[str, tuple[str, float]] = {
    "per_s": ("mails/s", 1),
    "worker_cpu_s_per_1000": ("worker's CPU, µs a mail", 1000),
    "servers_cpu_s_per_1000": ("database's CPU, µs a mail", 1000),
    "peak_mb": ("worker's peak memory, MB", 1),
}
"""The figures of a profile, with what makes them the unit of their titles."""
_SOAK_ROWS = 12


def page(text: str, folder: Path = kept.RESULTS) -> str:
    """Return the page's text with its blocks made anew. Raise KeyError for an unknown block."""

    def block(found: re.Match[str]) -> str:
        made = _MAKERS[found["name"]](folder)
        return f"{found['begin']}\n{made}\n\n{found['end']}"

    return _BLOCK.sub(block, text)


def plot_path(soak: Any) -> Path:
    """Return where a soak's plot lies."""
    return PLOTS / f"soak-django-{kept.series(soak)}.svg"


def _profile(folder: Path) -> str:
    found = {label: kept.read(f"profile-{label}", folder) for label in ("before", "after")}
    profiles = {label: profile for label, profile in found.items() if profile is not None}
    if not profiles:
        return "Not measured yet."
    every = list(profiles.values())
    figures = [
        [title, *(tables.number(one["median"][key] * factor) for one in every)]
        for key, (title, factor) in FIGURES.items()
    ]
    figures.append(["worker's instructions a mail", *map(_instructions, every)])
    by_part = [
        [title, *(_share(one, sum(one["shares"][part].values())) for one in every)]
        for part, title in parts.PARTS.items()
    ]
    by_layer = [
        [title, *(_share(one, sum(s[layer] for s in one["shares"].values())) for one in every)]
        for layer, title in parts.LAYERS.items()
    ]
    return "\n\n".join(
        [
            tables.markdown(["", *profiles], figures),
            tables.markdown(["worker's CPU a mail, by part", *profiles], by_part),
            tables.markdown(["worker's CPU a mail, by whose code", *profiles], by_layer),
            " ".join(_run(label, one) for label, one in profiles.items()),
        ]
    )


def _share(profile: Any, percent: float) -> str:
    """Return a share of the worker's CPU as time and percentage."""
    us = profile["median"]["worker_cpu_s_per_1000"] * 1000 * percent / 100
    return f"{tables.number(us)} µs ({tables.number(percent)} %)"


def _instructions(profile: Any) -> str:
    counted = profile["instructions_per_mail"]
    return profile["instructions"] if counted is None else tables.number(counted)


def _run(label: str, profile: Any) -> str:
    return (
        f"{label.capitalize()}: {profile['date']}, Django {profile['versions']['Django']}, "
        f"PostgreSQL {profile['versions']['PostgreSQL']}, medians of {len(profile['rounds'])} "
        f"drains, {profile['samples']:,} samples; {_machine(profile)}."
    )


def _machine(result: Any) -> str:
    return f"{result['machine']['cores']} cores of {result['machine']['cpu']}"


def _flat(folder: Path) -> str:
    blocks = []
    for name in ("flat", "large"):
        if result := kept.newest(name, folder):
            measured = [entry for entry in result["subjects"] if "median" in entry]
            blocks += [_flat_table(measured), f"Measured {result['date']}; {_machine(result)}."]
    return "\n\n".join(blocks) or "Not measured yet."


def _flat_table(entries: list[Any]) -> str:
    empty = entries[0]["median"]

    def cell(figures: Mapping[str, float], key: str, factor: float = 1) -> str:
        percent = round(100 * figures[key] / empty[key])
        return f"{tables.number(figures[key] * factor)} ({percent} %)"

    titles = ["", "mails/s", "a claim of 100, ms", "worker's CPU, µs a mail"]
    titles += ["database's CPU, µs a mail", "worker's peak memory, MB"]
    rows = [
        [
            entry["title"],
            cell(figures, "per_s"),
            cell(figures, "claim_ms"),
            cell(figures, "worker_cpu_s_per_1000", 1000),
            cell(figures, "servers_cpu_s_per_1000", 1000),
            cell(figures, "peak_mb"),
        ]
        for entry in entries
        for figures in [entry["median"]]
    ]
    return tables.markdown(titles, rows)


def _soak(folder: Path) -> str:
    soak = kept.newest("soak", folder)
    if soak is None:
        return "Not measured yet."
    samples = soak["samples"]
    every = max(1, -(-len(samples) // _SOAK_ROWS))
    shown = samples[every - 1 :: every]
    image = f"![The soak, minute by minute]({plot_path(soak).relative_to(PAGE.parent)})"
    about = (
        f"{soak['minutes']} minutes at {tables.number(soak['rate'])} mails/s, "
        f"{samples[-1]['mails']:,} mails; {soak['setup']}. Measured {soak['date']}; "
        f"{_machine(soak)}."
    )
    return "\n\n".join([image, _soak_table(shown), _soak_sums(soak), about])


def _soak_table(samples: list[Any]) -> str:
    titles = ["minute", "messages", "of them dead", "vacuums", "table, MB", "its indexes, MB"]
    titles += ["claim's index, MB", "queued", "queued to begun, p50 and p99, ms", "worker, MB"]
    rows = [
        [
            str(one["minute"]),
            tables.number(message["rows"]),
            tables.number(message["dead"]),
            str(message["vacuums"]),
            tables.number(message["table_mb"]),
            tables.number(message["indexes_mb"]),
            tables.number(one["indexes_mb"]["pillarbox_message_claim"]),
            str(one["queued"]),
            f"{tables.number(one['wait_p50_ms'])} and {tables.number(one['wait_p99_ms'])}",
            tables.number(one["worker_mb"]),
        ]
        for one in samples
        for message in [one["tables"]["message"]]
    ]
    return tables.markdown(titles, rows)


def _soak_sums(soak: Any) -> str:
    """Return what one mail costs a table in dead rows, and what the tables hold at the end."""
    last = soak["samples"][-1]
    rows = []
    for name in sampling.TABLES:
        table, bloat = last["tables"][name], (soak["bloat"] or {}).get(name)
        dead = table["updates"] + table["deletes"]
        hot = f"{100 * table['hot_updates'] / table['updates']:.0f} %" if table["updates"] else ""
        ends = [f"{bloat[key]:g} %" for key in ("dead_percent", "free_percent")] if bloat else []
        rows.append([name, tables.number(dead / last["mails"]), hot, *(ends or ["", ""])])
    titles = ["table", "dead rows a mail", "updates without new index entries (HOT)"]
    return tables.markdown([*titles, "dead at the end", "free at the end"], rows)


_MAKERS: Mapping[str, Callable[[Path], str]] = {"profile": _profile, "flat": _flat, "soak": _soak}
