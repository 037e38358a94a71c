"""One run: a database, an SMTP server and workers of its own, mail, kills, quiet, the audit.

``python -m tests.torture.scenario PLAN`` takes the plan as JSON, tells on stderr how far it is,
and prints its findings as JSON. Everything that it starts ends with it, at SIGTERM too.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import django

from tests.support.databases import own_database
from tests.support.processes import with_settings
from tests.torture import kills, points, victims
from tests.torture.audit import Findings, audit
from tests.torture.ledger import Ledger, ledger_sink
from tests.torture.run import POLICIES, Plan, Run

LOG_TAIL = 3000


def main(plan: Plan) -> Findings:
    """Carry the plan out. Raise Stuck, with all that is known, where it does not come to an end."""
    random.seed(plan.seed)
    engine = victims.ENGINES[plan.engine]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="torture-")))
        ledger = stack.enter_context(ledger_sink(folder, pipelining=not plan.at_points))
        url = stack.enter_context(victims.own_redis(folder)) if engine.needs_redis else ""
        os.environ |= _environment(engine, ledger, url)
        django.setup()
        if plan.engine == "celery":
            from tests.support import celery_app  # noqa: F401 - wakes leave by it
        name = stack.enter_context(own_database())
        env = {**os.environ, "PILLARBOX_TEST_DB_NAME": name, points.FOLDER: str(folder)}
        crew = stack.enter_context(victims.crew(engine, env, folder))
        try:
            return _play(Run(plan, crew, ledger, folder))
        except BaseException:
            print(crew.log()[-LOG_TAIL:], file=sys.stderr)
            raise


def _environment(engine: victims.Engine, ledger: Ledger, url: str) -> Mapping[str, str]:
    address = {"host": ledger.host, "port": ledger.port}
    smtp = {"BACKEND": "pillarbox.backends.smtp.EmailBackend", "OPTIONS": address}
    pillarbox = {
        "ENGINE": engine.pillarbox,
        "CONNECTIONS": victims.CONNECTIONS,
        # Each of the dead keeps its slot until its lease has run out.
        "MAX_DRAINS": 16,
        "MAILERS": {"smtp": smtp},
        "STREAMS": {name: {"mailers": ["smtp"], "in_doubt": name} for name in POLICIES},
    }
    settings: dict[str, Any] = {"REMOVE": ["MAILERS"], "PILLARBOX": pillarbox, **engine.settings}
    env = with_settings({}, **settings)
    env["PILLARBOX_TEST_SETTINGS"] = env["PILLARBOX_TEST_SETTINGS"].replace("{redis}", url)
    return {**env, "DJANGO_SETTINGS_MODULE": "tests.torture.settings"}


def _play(run: Run) -> Findings:
    if run.plan.at_points:
        kills.at_each_point(run)
    if run.plan.long_stops:
        kills.stopped_at_points(run)
    if run.plan.kills:
        kills.at_random(run)
    run.settle()
    findings = audit(run.facts())
    findings.breaches += run.stops.broken
    return findings


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to stop"))
    print(json.dumps(dataclasses.asdict(main(Plan(**json.loads(sys.argv[1]))))))
