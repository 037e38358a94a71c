"""Examines the engine, its broker, and whether a worker is alive."""

from __future__ import annotations

import time
from collections.abc import Iterator

from django.db import router

from pillarbox.console import status
from pillarbox.console.status import WorkerStatus
from pillarbox.engines import async_task, get_engine
from pillarbox.management.doctor.findings import Finding, bad, good, reason
from pillarbox.management.terminal import duration
from pillarbox.models import Message

LOOK_EVERY_S = 0.02
"""A drain stays for 100 ms at least."""
STARTS = {
    "django_q2": "manage.py qcluster",
    "celery": "celery -A <your project> worker",
    "worker": "manage.py pillarbox worker",
}


def examine_engine() -> Iterator[Finding]:
    """Reach the engine's broker."""
    engine, started = get_engine(), time.monotonic()
    try:
        answer = engine.ping()
    except Exception as error:  # noqa: BLE001 - any broker, any fault
        remedy = "Start the broker, or correct its address. Mail is safe in its rows until then."
        took_s = time.monotonic() - started
        yield bad("engine", f"{engine.name}: {reason(error)}", remedy, took_s)
    else:
        yield good("engine", f"{engine.name}: {answer}", time.monotonic() - started)


def examine(wait_s: float) -> Iterator[Finding]:
    """Look for a live drain, waking the engine where drains exist only while there is work."""
    engine = get_engine()
    if engine.is_immediate:
        yield good("worker", "None is needed: the process that queues delivers")
        return
    started = time.monotonic()
    worker = _alive()
    if worker is None and engine.takes_slots:
        try:
            async_task("pillarbox.jobs.deliver_due")
        except Exception as error:  # noqa: BLE001 - any broker, any fault
            remedy = "See what is said of the engine."
            yield bad("worker", f"The engine took no wake: {reason(error)}", remedy)
            return
    while worker is None and time.monotonic() - started < wait_s:
        time.sleep(LOOK_EVERY_S)
        worker = _alive()
    took_s = time.monotonic() - started
    if worker is None:
        remedy = f"Start one: `{STARTS.get(engine.name, 'the workers of your engine')}`."
        text = f"None has come forward within {duration(wait_s)}."
        yield bad("worker", f"{text} If they are all busy, try a longer --wait.", remedy)
    else:
        heartbeat = f"heartbeat {duration(worker.heartbeat_age_s)} ago"
        text = f"Alive on {worker.host}, process {worker.pid} ({worker.engine}), {heartbeat}"
        yield good("worker", text, took_s)


def _alive() -> WorkerStatus | None:
    seen = status.workers(router.db_for_write(Message))
    return next((worker for worker in seen if worker.is_alive), None)
