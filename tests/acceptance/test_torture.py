"""A worker killed at every step and at random moments loses no mail and hides no doubt."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_workers_killed_at_every_step_keep_every_promise() -> None:
    """`make torture` is the long form, with every engine and database."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture", "--short"],
        check=False,
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    *_, line = done.stdout.splitlines()
    assert line.endswith("| kept     |"), line
