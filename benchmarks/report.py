"""Makes pages of the documentation, and their plots, of the results that are kept.

``python -m benchmarks.report`` writes them; a test holds the pages equal to the results.
"""

from __future__ import annotations

from pathlib import Path
from string import Template
from typing import Any

from benchmarks import kept, performance, scenarios, subjects, tables
from benchmarks.place import ROOT
from benchmarks.scenarios.base import Case

TEMPLATE = ROOT / "benchmarks" / "page.md"
PAGE = ROOT / "docs" / "explanation" / "benchmarks.md"
PLOTS = PAGE.with_suffix("")

Results = dict[str, list[Any]]
"""The results of a case by its name, one for each Django, the newest first."""


def load(folder: Path = kept.RESULTS) -> Results:
    """Return what is kept."""
    found = {case.name: kept.load(case.name, folder) for case in scenarios.ALL}
    return {name: results for name, results in found.items() if results}


def terminal(case: Case, result: Any) -> str:
    """Return a result as a table for the eye."""
    lines = [tables.titles(case), *tables.rows(case, result)]
    widths = [max(len(line[n]) for line in lines) for n in (0, 2)]
    shown = [
        f"{name:<{widths[0]}}  {ratio:>{widths[1]}}  " + "  ".join(others)
        for name, first, ratio, *rest in lines
        for others in [[first, *rest]]
    ]
    return "\n".join([f"{case.title} ({case.about})", *shown])


def page(found: Results) -> str:
    """Return the page's text."""
    sections = [
        _section(case, result) for case in scenarios.ALL for result in found.get(case.name, [])
    ]
    every = [result for results in found.values() for result in results]
    return Template(TEMPLATE.read_text()).substitute(
        sections="\n\n".join(sections), machine=_machine(every), settings=_settings(every)
    )


def plot_path(result: Any) -> Path:
    """Return where a result's plot lies."""
    return PLOTS / f"{result['case']}-django-{kept.series(result)}.svg"


def _section(case: Case, result: Any) -> str:
    plot = plot_path(result).relative_to(PAGE.parent)
    heading = f"## {case.title} (Django {kept.series(result)})"
    image = f"![{case.title}, Django {kept.series(result)}]({plot})"
    table = tables.markdown(tables.titles(case), tables.rows(case, result))
    return "\n\n".join([heading, case.about, image, table, _run(result)])


def _run(result: Any) -> str:
    rounds = "one round" if result["rounds"] == 1 else f"medians of {result['rounds']} rounds"
    return f"Measured {result['date']}, {rounds}, load average before it {result['load_average']}."


def _machine(every: list[Any]) -> str:
    """Return a line for each machine and each set of versions; a run has only one."""
    lines: dict[str, None] = {}
    for result in every:
        machine = result["machine"]
        lines[
            f"- {machine['cores']} cores of {machine['cpu']}, {machine['memory_gb']} GB, "
            f"{machine['system']}"
        ] = None
    versions: dict[str, set[str]] = {}
    for result in every:
        for name, version in result["versions"].items():
            versions.setdefault(name, set()).add(version)
    named = ",\n  ".join(
        f"{name} {' and '.join(sorted(versions[name]))}" for name in sorted(versions, key=str.lower)
    )
    postgres = {f"`{k} = {v}`": None for result in every for k, v in result["postgresql"].items()}
    settings = ",\n  ".join(postgres)
    return "\n".join([*lines, f"- {named}", f"- PostgreSQL with {settings}"])


def _settings(every: list[Any]) -> str:
    setups = {e["title"]: e["setup"] for result in every for e in result["subjects"]}
    order = [subject.title for subject in subjects.ALL if subject.title in setups]
    return tables.markdown(
        ["", "settings and commands"], [[title, setups[title]] for title in order]
    )


def main() -> None:
    """Write the pages and the plots, where there is a result to show."""
    from benchmarks import plots

    found = load()
    if not found:
        print("There are no results yet: `make bench` makes them.")
        return
    PAGE.write_text(page(found))
    for case in scenarios.ALL:
        for result in found.get(case.name, []):
            plots.draw(case, result, plot_path(result))
    performance.PAGE.write_text(performance.page(performance.PAGE.read_text()))
    if soak := kept.newest("soak"):
        plots.draw_soak(soak, performance.plot_path(soak))
    print(f"{PAGE} and {performance.PAGE} are written.")


if __name__ == "__main__":
    main()
