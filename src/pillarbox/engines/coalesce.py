"""One wake for many commits: whatever commits within 50 ms of a wake is seen by its drain."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from django.utils.module_loading import import_string

from pillarbox.engines import async_task, get_engine

logger = logging.getLogger("pillarbox.engines")

WINDOW_S = 0.05
"""W: a drain stays for longer than this (L = 100 ms) after the wake that started it."""

_lock = threading.Lock()
_woken_at: float | None = None


def wake(using: str, pks: Sequence[int]) -> None:
    """Wake the engine for messages just committed, unless this process did so within 50 ms.

    Called from ``on_commit``. Raises nothing: a broker that is down costs a log line, and the
    sweep finds the mail. An engine that delivers at once is handed ``pks``.
    """
    if get_engine().is_immediate:
        deliver = import_string("pillarbox.delivery.inline.deliver_inline")
        deliver(pks, using=using)
        return
    stamp = _stamp()
    if stamp is None:
        return
    try:
        async_task("pillarbox.jobs.deliver_due")
    except Exception as error:
        _erase(stamp)
        logger.warning(
            "The engine took no wake (%s); the next sweep delivers.",
            type(error).__name__,
            exc_info=error,
        )


def _stamp() -> float | None:
    """Note the time of a wake before it is made; None where one is recent enough."""
    global _woken_at
    now = time.monotonic()
    with _lock:
        if _woken_at is not None and now - _woken_at < WINDOW_S:
            return None
        _woken_at = now
        return now


def _erase(stamp: float) -> None:
    global _woken_at
    with _lock:
        if _woken_at == stamp:
            _woken_at = None
