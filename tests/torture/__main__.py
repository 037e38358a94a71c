"""``python -m tests.torture``: kill workers of every engine on every database, print the audit.

Each run is a process of its own (`tests.torture.scenario`), since Django knows one database and
one engine a process. The exit code is 1 where a promise was broken or a run did not end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict

from tests import services
from tests.torture import victims
from tests.torture.audit import Findings
from tests.torture.run import Plan
from tests.torture.table import Line, render

DATABASES = ("sqlite", "postgresql", "mariadb")
BREACHES_SHOWN = 20
SHORT_MAILS, SHORT_KILLS = 400, 8
# Of the mails and kills that are asked for: a pool waits for its sweep, a worker does not.
SHARE_OF_POOLS = 0.1
RUN_S, SHORT_RUN_S = 3600, 150


def main() -> int:
    """Carry out every run, print the table and return the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to stop"))
    asked = _arguments()
    lines = [_carry_out(plan) for plan in _plans(asked)]
    print(render(lines))
    return int(not lines or not all(line.is_kept for line in lines))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    found = [name for name in DATABASES if name == "sqlite" or not services.missing(name)]
    parser.add_argument("--databases", nargs="+", choices=DATABASES, default=found)
    runnable = [name for name, engine in victims.ENGINES.items() if engine.is_runnable]
    parser.add_argument("--engines", nargs="+", choices=victims.ENGINES, default=runnable)
    parser.add_argument("--mails", type=int, default=20_000, help="of a run with random kills")
    parser.add_argument("--kills", type=int, default=200, help="at random moments of such a run")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument(
        "--short", action="store_true", help="`worker` alone, on the database of PILLARBOX_TEST_DB"
    )
    return parser.parse_args()


def _plans(asked: argparse.Namespace) -> Iterator[Plan]:
    if asked.short:
        database = os.environ.get("PILLARBOX_TEST_DB", "sqlite")
        yield Plan(
            database,
            "worker",
            at_points=True,
            mails=SHORT_MAILS,
            kills=SHORT_KILLS,
            seed=asked.seed,
            hurry=True,
        )
        return
    for database in asked.databases:
        for engine in asked.engines:
            yield Plan(database, engine, at_points=True, seed=asked.seed)
            if engine == "worker":
                yield Plan(database, engine, long_stops=True, seed=asked.seed)
            yield _at_random(asked, database, engine)


def _at_random(asked: argparse.Namespace, database: str, engine: str) -> Plan:
    share = 1 if engine == "worker" else SHARE_OF_POOLS
    mails, kills = (max(1, round(number * share)) for number in (asked.mails, asked.kills))
    stops = max(1, kills // 40)
    return Plan(database, engine, mails=mails, kills=kills, short_stops=stops, seed=asked.seed)


def _carry_out(plan: Plan) -> Line:
    print(f"{plan.title}, seed {plan.seed}", file=sys.stderr, flush=True)
    started = time.monotonic()
    said = _run(plan)
    took_s = time.monotonic() - started
    findings = Findings(**json.loads(said)) if said else None
    for breach in findings.breaches[:BREACHES_SHOWN] if findings else ["it did not end"]:
        print(f"BROKEN: {plan.title}: {breach}", file=sys.stderr, flush=True)
    line = Line(plan.database, plan.engine, plan.killed, took_s, findings)
    print(render([line]), file=sys.stderr, flush=True)
    return line


def _run(plan: Plan) -> str:
    """Return what the run's process printed; nothing where it failed."""
    env = {**os.environ, "PILLARBOX_TEST_DB": plan.database}
    env["PILLARBOX_TEST_RUN"] = f"torture_{os.getpid()}"
    command = [sys.executable, "-m", "tests.torture.scenario", json.dumps(asdict(plan))]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            said, _ = process.communicate(timeout=SHORT_RUN_S if plan.hurry else RUN_S)
        except BaseException as error:
            # It ends everything that it has started, if it is asked.
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=30)
            process.kill()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return ""
    return said if process.returncode == 0 else ""


if __name__ == "__main__":
    sys.exit(main())
