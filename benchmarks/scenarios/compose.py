"""How fast a mail becomes the bytes that the mail server is given; nothing is queued or sent."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.bench import Bench
from benchmarks.scenarios.base import Case, Figures
from benchmarks.subjects.base import Subject


@dataclass(frozen=True)
class Compose(Case):
    """One process; the messages are there before, as Django's objects."""

    columns = {"per_s": "mails/s", "cpu_us": "CPU, µs a mail"}
    plotted = ("per_s",)
    references = ("pillarbox_composer",)

    def measure(self, bench: Bench, subject: Subject) -> Figures:
        """Let a fresh process render them."""
        count = bench.amount(subject.rendered_mails)
        figures = bench.child(bench.place(subject), "render", "--count", str(count))
        cpu_us = figures["client_cpu_s_per_1000"] * 1000
        return {"per_s": figures["per_s"], "cpu_us": cpu_us, "mails": count}


CASES = (
    Compose(
        "compose",
        "Render a mail",
        "Django's message objects, ready with Date and Message-ID as queued mails have them and no "
        "two alike, become the bytes for the wire, in one process.",
    ),
)
