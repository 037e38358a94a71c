"""Django's own tests, from its source distribution: downloaded once for each version."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import django
import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pillarbox-tests"


def django_tests_folder() -> Path:
    """Return the folder with ``runtests.py``; skip loudly where pip cannot have it.

    With PILLARBOX_REQUIRE_SERVICES=1 that is a failure instead.
    """
    target = CACHE / f"django-{django.__version__}"
    if not (target / "tests" / "runtests.py").exists():
        try:
            _download(target)
        except subprocess.CalledProcessError as error:
            reason = f"Django's source distribution cannot be had from pip: {error.stderr[-500:]}"
            if os.environ.get("PILLARBOX_REQUIRE_SERVICES") == "1":
                pytest.fail(reason, pytrace=False)
            pytest.skip(reason)
    return target / "tests"


def _download(target: Path) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        options = ["--quiet", "--no-deps", "--no-binary", "Django", "--dest", folder]
        pip = [sys.executable, "-m", "pip", "download", *options, f"Django=={django.__version__}"]
        subprocess.run(pip, check=True, capture_output=True, text=True, timeout=300)
        (archive,) = Path(folder).glob("*.tar.gz")
        with tarfile.open(archive) as files:
            files.extractall(folder, filter="data")
        (source,) = (path for path in Path(folder).iterdir() if path.is_dir())
        try:
            source.rename(target)  # complete or not at all
        except OSError:
            if not target.exists():
                raise  # else another process was faster
