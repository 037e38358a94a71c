"""Takes the product's guards away one by one, in a copy, and says whether a test notices.

``python -m tests.mutations`` tries them all; with names, those alone. It ends with 1 where a
change went unnoticed. PILLARBOX_TEST_DB chooses the database. It is run by hand.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = Path("src/pillarbox")
WALK = "tests/acceptance/test_state_machine.py"
LEDGER_TESTS = "tests/contracts/test_ledger.py"
TIMEOUT_S = 600
LEDGER, RECOVERY, VERBS = "delivery/ledger.py", "delivery/recovery.py", "outbox/verbs.py"
DOUBTS, CLAIMS = "delivery/doubts.py", "delivery/claims.py"
BY_HAND, BY_HAND_TESTS = "delivery/recording.py", "tests/contracts/test_recording.py"
CLAIMING, CLAIMING_TESTS = "delivery/claiming.py", "tests/contracts/test_claims.py"
TAKING, TAKING_TESTS = "delivery/taking.py", "tests/contracts/test_slots.py"
"""The SQL that is PostgreSQL's or SQLite's own: with another database nothing can notice."""


@dataclass(frozen=True)
class Mutation:
    """One guard taken away: text that stands once in a file, and what stands there instead."""

    name: str
    file: str
    old: str
    new: str
    test: str = WALK

    def apply(self, root: Path) -> None:
        """Change the copy. Raise ValueError where the code has moved on."""
        path = root / SOURCE / self.file
        text = path.read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.file} has {self.old!r} {text.count(self.old)}×")
        path.write_text(text.replace(self.old, self.new))


MUTATIONS = [
    Mutation("begin by any drain", LEDGER, "            and drain == self.drain\n", ""),
    Mutation(
        "begin what is begun",
        LEDGER,
        "(begun_at is None or begun_at in parcel.begins_tried)",
        "True",
    ),
    Mutation(
        "begin in any state",
        LEDGER,
        "state == State.SENDING\n            and",
        "",
        LEDGER_TESTS,  # what leaves ``sending`` loses its drain, or has been begun
    ),
    Mutation(
        "begin by an old claim",
        LEDGER,
        "            and attempts == parcel.message.attempts\n",
        "",
    ),
    Mutation("begin twice in a group", LEDGER, "if free.get(pk) is parcel:", "if pk in free:"),
    Mutation(
        "record for any drain, of any begin",
        LEDGER,
        "if state is None or held != [self.drain, message.begun_at]:",
        "if state is None:",
    ),
    Mutation(
        "record for any drain",
        LEDGER,
        "held != [self.drain, message.begun_at]",
        "held[1] != message.begun_at",
        LEDGER_TESTS,  # the moment of a begin is told from another's by its microseconds
    ),
    Mutation(
        "record of any begin",
        LEDGER,
        "held != [self.drain, message.begun_at]",
        "held[0] != self.drain",
    ),
    Mutation("record twice", LEDGER, "if result in recorded:", "if False:"),
    Mutation(
        "cancel after begin",
        VERBS,
        "allowed = Q(state__in=(State.QUEUED, State.HELD)) | _NOT_BEGUN",
        "allowed = Q(state__in=(State.QUEUED, State.HELD, State.SENDING))",
    ),
    Mutation(
        "cancel a claim and keep it",
        VERBS,
        '"finished_at": DatabaseNow(), **_LET_GO}',
        '"finished_at": DatabaseNow()}',
    ),
    Mutation(
        "hold after begin",
        VERBS,
        "allowed = Q(state__in=(State.QUEUED, State.IN_DOUBT)) | _NOT_BEGUN",
        "allowed = Q(state__in=(State.QUEUED, State.IN_DOUBT, State.SENDING))",
    ),
    Mutation(
        "release what is not held", VERBS, "allowed = Q(state=State.HELD)\n", "allowed = Q()\n"
    ),
    Mutation(
        "release what is being sent",
        VERBS,
        "allowed = Q(state=State.HELD)\n",
        "allowed = Q(state__in=(State.HELD, State.SENDING))\n",
    ),
    Mutation("retry without content", VERBS, ' & ~Q(content="")', ""),
    Mutation(
        "resolve what is not in doubt", VERBS, "message, _IN_DOUBT, values", "message, Q(), values"
    ),
    Mutation(
        "by hand: begin by any drain",
        BY_HAND,
        " AND free.drain = %(drain)s::uuid",
        "",
    ),
    Mutation("by hand: begin what is begun", BY_HAND, "\n        AND free.begun_at IS NULL", ""),
    Mutation(
        "by hand: begin in any state",
        BY_HAND,
        "free.state = '{{sending}}' AND ",
        "",
        LEDGER_TESTS,
    ),
    Mutation("by hand: begin by an old claim", BY_HAND, " AND wanted.attempts = free.attempts", ""),
    Mutation(
        "by hand: record for any drain",
        BY_HAND,
        " AND m.drain = %(drain)s::uuid\n",
        "\n",
        LEDGER_TESTS,
    ),
    Mutation(
        "by hand: record of any begin",
        BY_HAND,
        "THEN m.begun_at = result.begun_at END",
        "THEN TRUE END",
        BY_HAND_TESTS,
    ),
    Mutation(
        "by hand: begin before all is recorded",
        BY_HAND,
        "(SELECT count(*) FROM recorded) = (SELECT count(*) FROM result)",
        "TRUE",
        BY_HAND_TESTS,
    ),
    Mutation(
        "SQLite: begin by any drain",
        BY_HAND,
        "AND drain = %s AND begun_at IS NULL",
        "AND %s IS NOT NULL AND begun_at IS NULL",
    ),
    Mutation(
        "SQLite: begin what is begun",
        BY_HAND,
        " AND begun_at IS NULL AND attempts",
        " AND attempts",
    ),
    Mutation(
        "SQLite: begin by an old claim",
        BY_HAND,
        " AND begun_at IS NULL AND attempts = %s",
        " AND begun_at IS NULL AND attempts >= %s - 9",
    ),
    Mutation(
        "SQLite: record for any drain",
        BY_HAND,
        "AND drain = %s AND begun_at = %s",
        "AND %s IS NOT NULL AND begun_at = %s",
        LEDGER_TESTS,
    ),
    Mutation(
        "SQLite: record of any begin",
        BY_HAND,
        "AND drain = %s AND begun_at = %s",
        "AND drain = %s AND %s IS NOT NULL",
        BY_HAND_TESTS,
    ),
    Mutation(
        "SQLite: begin before all is recorded",
        BY_HAND,
        "                        raise _NotAll\n",
        "                        continue\n",
        BY_HAND_TESTS,
    ),
    Mutation("hold is resend", DOUBTS, 'policy_of(message) == "resend" and ', ""),
    Mutation("resend for ever", DOUBTS, " and message.resends == 0", ""),
    Mutation("resend and not count", DOUBTS, "message.resends + 1", "message.resends"),
    Mutation("resend what expires first", DOUBTS, " and may_wait", ""),
    Mutation(
        "recover what was begun to the queue",
        RECOVERY,
        "waiting = [row for row in rows if row.begun_at is None]\n"
        "    begun = [row for row in rows if row.begun_at is not None]",
        "waiting, begun = rows, []",
    ),
    Mutation(
        "recover no doubt",
        RECOVERY,
        "change = doubts.settle(row, now)",
        'change = {"state": State.QUEUED, "drain": None, "begun_at": None}',
    ),
    Mutation(
        "recover nothing that is not begun",
        RECOVERY,
        "    claims.update_rows(using, waiting, state=State.QUEUED, drain=None)\n",
        "    waiting = rows = begun\n",
    ),
    Mutation(
        "recover from the living",
        RECOVERY,
        'filter(pk=OuterRef("drain"), lease_until__gt=DatabaseNow())',
        'filter(pk=OuterRef("drain"), lease_until__lt=DatabaseNow())',
    ),
    Mutation(
        "claim without a lease", CLAIMS, "    if not mine.update(", "    if False and mine.update("
    ),
    Mutation(
        "claim and keep the old begin",
        CLAIMS,
        "drain=drain, begun_at=None)\n    batch",
        "drain=drain)\n    batch",
    ),
    Mutation(
        "give back what is begun",
        CLAIMS,
        "if held == [State.SENDING, drain, None]]",
        "if held[0] == State.SENDING]",
    ),
    Mutation(
        "expire what is in doubt",
        CLAIMS,
        "    expired = [row for row in rows if row.begun_at is None]\n",
        "    expired = rows\n",
    ),
    Mutation(
        "claim at once without a lease",
        CLAIMING,
        " AND lease_until > {now} RETURNING",
        " RETURNING",
    ),
    Mutation("claim at once and keep the old begin", CLAIMING, ", begun_at = NULL", ""),
    Mutation(
        "claim at once what has expired", CLAIMING, " WHERE is_late IS NOT TRUE", "", CLAIMING_TESTS
    ),
    Mutation(
        "claim at once in no order",
        CLAIMING,
        "ORDER BY claimed.urgency, claimed.since, claimed.id",
        "ORDER BY claimed.id",
        CLAIMING_TESTS,
    ),
    Mutation("claim at once and wait for locks", CLAIMING, " SKIP LOCKED", "", CLAIMING_TESTS),
    Mutation(
        "claim with the row what is of other streams",
        TAKING,
        " AND further IS NULL",
        "",
        TAKING_TESTS,
    ),
    Mutation(
        "claim with the row what is paused",
        TAKING,
        "WHERE kind <> 's' AND name",
        "WHERE kind = 'h' AND name",
        TAKING_TESTS,
    ),
    Mutation(
        "claim with the row what is marked",
        TAKING,
        "WHERE kind <> 's' AND name",
        "WHERE kind IN ('p', 'u') AND name",
        TAKING_TESTS,
    ),
]


def main(names: Sequence[str]) -> int:
    """Try each mutation of these names, or all; print a line for each."""
    unnoticed = 0
    for mutation in MUTATIONS:
        if names and mutation.name not in names:
            continue
        word = notice(mutation)
        unnoticed += word is None
        print(f"{mutation.name:38} {word or 'UNNOTICED'}", flush=True)
    return min(unnoticed, 1)


def notice(mutation: Mutation) -> str | None:
    """Run the mutation's test on a copy with it; return what the test said, None if nothing."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        for part in ("src", "tests"):
            shutil.copytree(ROOT / part, root / part)
        shutil.copy(ROOT / "pyproject.toml", root)
        mutation.apply(root)
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [*command, mutation.test],
            cwd=root,
            env={**os.environ, "PYTHONPATH": "src"},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stdout + done.stderr)
    if done.returncode == 0:
        return None
    found = re.search(r"^E\s+(\w+(?:Error|Lost|Transition|Group)\b.*)", done.stdout, re.MULTILINE)
    return found[1][:90] if found else done.stdout.strip().splitlines()[-1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
