"""Does one operation to many messages and reports what became of each."""

from __future__ import annotations

from pillarbox.console import operations
from pillarbox.console.operations import Operation
from pillarbox.management.selection import Selection
from pillarbox.management.subcommands.base import FAILED, OK
from pillarbox.management.terminal import Terminal

SHOWN = 20


def turn(chosen: Selection, operation: Operation, terminal: Terminal) -> int:
    """Do it in batches, each message in a transaction of its own; 1 if any was refused."""
    turned = 0
    refused = [f"Cannot {operation.name} message {pk}: its row is gone." for pk in chosen.missing]
    with terminal.progress(operation.label, chosen.queryset.count()) as bar:
        for batch in chosen.batches():
            tally = operations.run(operation, batch, note=lambda _: None)
            turned += len(tally.done)
            refused += [str(refusal) for refusal in tally.refused]
            bar.advance(len(batch))
    for line in refused[:SHOWN]:
        terminal.say(line, style="ERROR")
    if len(refused) > SHOWN:
        terminal.say(f"… and {len(refused) - SHOWN:,} more.")
    terminal.say(f"{turned:,} {operation.done}, {len(refused):,} refused.")
    terminal.data({"turned": turned, "refused": refused})
    return FAILED if refused else OK
