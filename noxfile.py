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
# More than a small machine has cores: much of the suite waits for servers and clocks.
IN_PARALLEL = ["-n", "4", "--dist", "loadgroup"]


def named(run: tuple[str, str, str]) -> nox.param:
    """Tag it by its age: `make test` covers the newest on a machine that has that Python."""
    age = ("oldest", "between", "newest")[PAIRS.index(run[:2])]
    return nox.param(*run, id="-".join(run), tags=[age])


def install(session: nox.Session, *sets: str) -> None:
    """Install what the tree at hand pins, and its package."""
    for name in sets:
        session.install("--no-deps", "-r", f"requirements/{name}.txt")
    session.install("--no-deps", "--no-build-isolation", "--editable", ".")
    session.run("python", "-m", "pip", "check")


@nox.session
@nox.parametrize("python,django,database", [named(run) for run in RUNS])
def tests(session: nox.Session, django: str, database: str) -> None:
    """Run the suite, or what is given after `--`."""
    sets = [f"django-{django}", "test"]
    # Some tests go to MariaDB whatever the suite runs on; the driver needs its headers to build.
    if database == "mariadb" or shutil.which("mariadb_config"):
        sets.append("mariadb")
    install(session, *sets)
    arguments = session.posargs or IN_PARALLEL
    session.run("python", "-m", "pytest", *arguments, env={"PILLARBOX_TEST_DB": database})


def last_tag() -> str:
    """Return the newest tag before or at HEAD; empty where there is none."""
    described = subprocess.run(
        ["git", "describe", "--tags", "--abbrev=0"], capture_output=True, text=True, check=False
    )
    return described.stdout.strip()


@nox.session(python=NEWEST[0])
def old_tests(session: nox.Session) -> None:
    """Run the last tag's code and suite, or what is given after `--`, on the newest schema.

    So old workers stand during a deploy. PILLARBOX_TEST_DB chooses the database.
    """
    tag = last_tag()
    if not tag:
        session.log("There is no tag yet, so no old version that could meet the newest schema.")
        return
    tree = session.create_tmp()
    shutil.rmtree(tree)
    Path(tree).mkdir()
    archive = f"{tree}.tar"
    session.run("git", "archive", "--output", archive, tag, external=True)
    session.run("tar", "-xf", archive, "-C", tree, external=True)
    install(session, f"django-{NEWEST[1]}", "test")
    # On PYTHONPATH, since the tests of both versions have the same name.
    new = {"PYTHONPATH": f"{Path.cwd() / 'src'}", "DJANGO_SETTINGS_MODULE": "tests.settings"}
    session.run("python", "-m", "tests.support.newest_schema", tree, env=new)
    with session.chdir(tree):
        install(session, f"django-{NEWEST[1]}", "test")
        session.run("python", "-m", "pytest", *(session.posargs or IN_PARALLEL))
