"""Django's own tests for its mail, with every message taken through check, encode and decode.

They come with Django's source distribution of the very version that is installed. The same tests
are run untouched first: what fails there fails for a reason that is not ours (an old interpreter,
tests run as root).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pillarbox
from tests.support.django_suite.shim import COUNTED
from tests.support.django_suite.source import django_tests_folder

ROOT = Path(__file__).parents[2]

JUSTIFIED = {
    # These assert that the rendered part *is* the object that was attached. What went through a
    # row is another object with the same headers and payload.
    "test_attachments_mimebase_in_constructor",
    "test_decoded_attachment_text_MIMEPart",
    "test_decoded_attachments_MIMEText",
    # Counts how often the body's payload is set: the check at the call renders once more.
    "test_nonascii_as_string_with_ascii_charset",
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("django_suite")]


@pytest.fixture(scope="module")
def django_tests() -> Path:
    """The folder of Django's tests."""
    return django_tests_folder()


class Run:
    """One run of the suite, its output read."""

    def __init__(self, django_tests: Path, mode: str) -> None:
        source = Path(pillarbox.__file__).parents[1]
        done = subprocess.run(
            [sys.executable, "-m", "django", "test", "mail"],
            cwd=django_tests,
            env={
                **os.environ,
                "DJANGO_SETTINGS_MODULE": "tests.support.django_suite.settings",
                "PILLARBOX_DJANGO_SUITE": mode,
                "PYTHONPATH": os.pathsep.join([str(source), str(ROOT)]),
            },
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        self.output = done.stdout + done.stderr
        self.failed = set(re.findall(r"^(?:ERROR|FAIL): (\w+)", self.output, re.MULTILINE))
        self.ran = self._number(r"^Ran (\d+) tests", "no test ran")
        self.carried = self._number(rf"^{COUNTED} (\d+)", "") if mode != "plain" else 0

    def _number(self, pattern: str, problem: str) -> int:
        found = re.search(pattern, self.output, re.MULTILINE)
        assert found, problem or self.output[-3000:]
        return int(found[1])


@pytest.fixture(scope="module")
def plain(django_tests: Path) -> Run:
    """Return the run without the codec."""
    return Run(django_tests, "plain")


@pytest.mark.parametrize("mode", ["codec", "backend"])
def test_djangos_mail_tests_pass_with_every_message_through_the_queue(
    mode: str, django_tests: Path, plain: Run
) -> None:
    run = Run(django_tests, mode)

    assert run.ran == plain.ran >= 200
    assert run.carried >= 200
    assert run.failed - plain.failed - JUSTIFIED == set(), run.output[-5000:]
