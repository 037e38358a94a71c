"""What every test can use, and the loud word at the end about services that were missing."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from _pytest.terminal import TerminalReporter

from tests import services

# A loaded machine is slow, not wrong; pytest-timeout catches what hangs.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")

# Brokers that have no database of their own for each xdist worker.
SHARED = {"redis", "rabbitmq"}


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Generator[None, None, None]:
    """Keep the brokers' tests in one xdist worker, so that none eats another's messages."""
    for item in items:
        for mark in item.iter_markers("service"):
            if SHARED & set(mark.args):
                item.add_marker(pytest.mark.xdist_group("brokers"))
    yield
    if config.getoption("loadgroup", default=False):
        lost = [it.nodeid for it in items if it.get_closest_marker("xdist_group")]
        lost = [nodeid for nodeid in lost if "@" not in nodeid.rpartition("]")[2]]
        if lost:  # xdist tells a group by the name that it gives to the test
            raise pytest.UsageError(f"pytest-xdist does not group with this pytest: {lost[0]}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Ask for the services before any fixture tries to reach them."""
    for mark in item.iter_markers("service"):
        services.require(*mark.args)


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Say which services were missing, and how many tests did not run for it."""
    reasons = (str(report.longrepr) for report in terminalreporter.stats.get("skipped", []))
    found = (re.search(rf"{services.REASON} (\S+)", reason) for reason in reasons)
    counted = Counter(match[1] for match in found if match)
    if not counted:
        return
    terminalreporter.section("missing services", yellow=True, bold=True)
    for name, count in counted.most_common():
        service = services.SERVICES[name]
        terminalreporter.write_line(
            f"{name}: {count} test(s) skipped; {service.where}: {services.missing(name)}"
        )
    terminalreporter.write_line("PILLARBOX_REQUIRE_SERVICES=1 turns these skips into failures.")


@pytest.fixture
def process_env(transactional_db: None) -> dict[str, str]:
    """Return the environment for a process that is to work on this test's own database."""
    from django.db import connection

    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "PILLARBOX_TEST_DB_NAME": str(connection.settings_dict["NAME"]),
        "PYTHONPATH": os.pathsep.join(
            [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        ),
    }


@pytest.fixture
def fresh_connection(transactional_db: None, settings: Any) -> Iterator[None]:
    """Begin and end with a connection that has prepared nothing; the engine is the worker."""
    from django.db import connection

    settings.PILLARBOX = {"ENGINE": "worker"}
    connection.close()
    connection.ensure_connection()
    yield
    connection.close()
