"""The audit table, one line a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tests.torture.audit import Findings

COLUMNS = (
    "database",
    "engine",
    "killed",
    "mails",
    "kills",
    "stopped",
    "lost",
    "sent twice",
    "in doubt",
    "slowest recovery",
    "took",
    "promises",
)


@dataclass(frozen=True)
class Line:
    """What one run was and what it found; ``findings`` is None where it did not end."""

    database: str
    engine: str
    killed: str
    took_s: float
    findings: Findings | None

    @property
    def is_kept(self) -> bool:
        """Whether every promise was kept."""
        return self.findings is not None and not self.findings.breaches

    def cells(self) -> list[str]:
        """Return the line as the table shows it."""
        head = [self.database, self.engine, self.killed]
        tail = [f"{self.took_s:.0f} s", "kept" if self.is_kept else "BROKEN"]
        if self.findings is None:
            return [*head, *["?"] * (len(COLUMNS) - len(head) - len(tail)), *tail]
        found = asdict(self.findings)
        counts = ("mails", "kills", "stops", "lost", "twice", "in_doubt")
        recovery = f"{self.findings.slowest_recovery_s:.1f} s"
        return [*head, *[f"{found[name]:,}" for name in counts], recovery, *tail]


def render(lines: Sequence[Line]) -> str:
    """Return the table as text, Markdown as well."""
    rows = [list(COLUMNS), *[line.cells() for line in lines]]
    widths = [max(len(row[n]) for row in rows) for n in range(len(COLUMNS))]
    texts = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([texts[0], rule, *texts[1:]])
