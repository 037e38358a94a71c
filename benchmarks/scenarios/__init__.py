"""All cases, in the order of the page; a module here is one scenario with its cases."""

from __future__ import annotations

from benchmarks.scenarios import compose, drain, enqueue, flat, latency
from benchmarks.scenarios.base import Case

ALL: tuple[Case, ...] = (
    *enqueue.CASES,
    *drain.CASES,
    *latency.CASES,
    *compose.CASES,
    *flat.CASES,
)
