"""The suite on every supported pair of Python and Django; `nox -l` lists the runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.download_python = "never"


def use(*versions: str) -> str:
    """Return the first of these Pythons that runs here, found just as `make test` finds its own.

    Where none does, return the first: nox then names it as missing.
    """
    for version in versions:
        search = subprocess.run(
            ["scripts/find-python", version], capture_output=True, text=True, check=False
        )
        if search.returncode == 0:
            directory = Path(search.stdout.strip()).parent
            os.environ["PATH"] = f"{directory}{os.pathsep}{os.environ['PATH']}"
            return version
    return versions[0]


NEWEST = (use("3.13"), "6.1")
PAIRS = [(use("3.11"), "5.2"), (use("3.12", "3.13"), "6.0"), NEWEST]
RUNS = [(*pair, "sqlite") for pair in PAIRS]
RUNS += [(*NEWEST, database) for database in ("postgresql", "mariadb")]


def named(run: tuple[str, str, str]) -> nox.param:
    """Tag what `make test` itself does not cover on a machine that has the newest Python."""
    tags = ["newest" if run[:2] == NEWEST else "other"]
    return nox.param(*run, id="-".join(run), tags=tags)


@nox.session
@nox.parametrize("python,django,database", [named(run) for run in RUNS])
def tests(session: nox.Session, django: str, database: str) -> None:
    """Run the suite, or what is given after `--`."""
    sets = [f"django-{django}", "test"]
    # Some tests go to MariaDB whatever the suite runs on; the driver needs its headers to build.
    if database == "mariadb" or shutil.which("mariadb_config"):
        sets.append("mariadb")
    for name in sets:
        session.install("--no-deps", "-r", f"requirements/{name}.txt")
    session.install("--no-deps", "--no-build-isolation", "--editable", ".")
    session.run("python", "-m", "pip", "check")
    arguments = session.posargs or ["-n", "auto", "--maxprocesses", "4", "--dist", "loadgroup"]
    session.run("python", "-m", "pytest", *arguments, env={"PILLARBOX_TEST_DB": database})
