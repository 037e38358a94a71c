"""Django's own tests of e-mail, with our SMTP backend in the place of Django's.

They come with Django's source distribution of the installed version, which pip fetches once into
the user's cache. Nothing of them is changed: the class is replaced before they are imported.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pillarbox
from tests.support.django_suite.source import django_tests_folder

SOURCES = Path(pillarbox.__file__).parents[1]

RUNNER = """
import runpy, sys
if sys.argv.pop(1) == "ours":
    from django.core.mail.backends import smtp
    from pillarbox.backends.smtp import EmailBackend
    smtp.EmailBackend = EmailBackend
runpy.run_path("runtests.py", run_name="__main__")
"""


@pytest.fixture(scope="module")
def django_tests() -> Path:
    """The folder of Django's tests."""
    return django_tests_folder()


def run(backend: str, tests: Path, scratch: Path) -> tuple[int, set[str]]:
    """Run Django's tests of e-mail; return how many there are and those that fail."""
    options = ["mail", "--parallel=1", "--settings=test_sqlite"]
    environment = {
        **{name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"},
        "PYTHONPATH": str(SOURCES),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": str(scratch),
    }
    ran = subprocess.run(
        [sys.executable, "-c", RUNNER, backend, *options],
        cwd=tests,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    count = re.search(r"^Ran (\d+) tests", ran.stderr, re.MULTILINE)
    assert count is not None, ran.stderr[-4000:]
    failed = set(re.findall(r"^(?:FAIL|ERROR): (.+)$", ran.stderr, re.MULTILINE))
    assert bool(failed) == bool(ran.returncode), ran.stderr[-4000:]
    # aiosmtpd is there, so that none of the tests of the SMTP backend is left out.
    assert "No aiosmtpd library" not in ran.stdout + ran.stderr
    return int(count[1]), failed


@pytest.mark.slow
def test_djangos_own_tests_pass_with_our_backend(django_tests: Path, tmp_path: Path) -> None:
    count, failed = run("ours", django_tests, tmp_path)
    assert count > 200
    if failed:
        # Some fail with Django's own too: run by root, or on a Python with a bug in its parser.
        djangos_count, djangos_failed = run("django", django_tests, tmp_path)
        assert count == djangos_count
        assert failed <= djangos_failed
