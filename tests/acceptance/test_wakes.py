"""Wakes are coalesced, drains do not pile up, and no message is missed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.support.flood import MAX_DRAINS, Report
from tests.support.processes import SETTINGS_MODULE

FLOOD_S = 280
"""Enough for a slow machine that runs other tests beside it; alone it takes half a minute."""


def flood(database: str) -> Report:
    """Run one flood on a database of its own and return its report."""
    run = os.environ.get("PILLARBOX_TEST_RUN", "") + os.environ.get("PYTEST_XDIST_WORKER", "")
    env = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": SETTINGS_MODULE,
        "PILLARBOX_TEST_DB": database,
        "PILLARBOX_TEST_RUN": f"{run}_flood_{database}",
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.flood"],
        env=env,
        check=False,
        capture_output=True,
        text=True,
        timeout=FLOOD_S,
    )
    assert done.returncode == 0, done.stderr
    return Report(**json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "database",
    [
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.service("postgresql")),
        pytest.param("mariadb", marks=pytest.mark.service("mariadb")),
    ],
)
def test_a_flood_from_many_processes_leaves_no_straggler_and_wakes_few_drains(
    database: str,
) -> None:
    report = flood(database)

    assert report.missing == []
    assert report.unexpected == [], "a mail of a block that was rolled back"
    assert report.doubled == []
    assert report.stragglers == [], "left in the queue, with no sweep running"

    assert report.wakes_by_senders <= report.wakes_allowed
    assert report.wakes_by_senders < report.kept / 2
    assert 1 <= report.most_drains <= MAX_DRAINS
    assert report.failed_jobs == 0
