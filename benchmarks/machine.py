"""What a result must state beside its figures: the machine, the versions, the settings."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import servers


def describe(packages: Iterable[str], server_versions: Mapping[str, str]) -> dict[str, Any]:
    """Return it all, ready for JSON."""
    names = sorted({"Django", "psycopg", *packages}, key=str.lower)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "system": f"{platform.system()} {platform.release()}",
        },
        "load_average": round(os.getloadavg()[0], 2),
        "versions": {
            "Python": platform.python_version(),
            **server_versions,
            **{name: metadata.version(name) for name in names},
        },
        "postgresql": servers.SETTINGS,
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
