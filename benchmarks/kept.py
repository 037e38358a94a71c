"""The results that are kept, and where: the documentation's figures come from them alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.place import ROOT

RESULTS = ROOT / "benchmarks" / "results"


def series(result: Any) -> str:
    """Return Django's feature release of a result: ``"6.1"``."""
    return ".".join(result["versions"]["Django"].split(".")[:2])


def by_series(name: str, result: Any) -> str:
    """Return the name of the file of a result that is kept for each Django."""
    return f"{name}-django-{series(result)}"


def write(result: Any, name: str, folder: Path) -> Path:
    """Keep a result in the file of that name; return where."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def load(name: str, folder: Path = RESULTS) -> list[Any]:
    """Return the results of that name, the newest Django's first."""
    results = [json.loads(path.read_text()) for path in folder.glob(f"{name}-django-*.json")]
    return sorted(results, key=series, reverse=True)


def read(name: str, folder: Path = RESULTS) -> Any | None:
    """Return the result in the file of that name, None if there is none."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def newest(name: str, folder: Path = RESULTS) -> Any | None:
    """Return the newest Django's result of that name, None if there is none."""
    return next(iter(load(name, folder)), None)
