"""``python -m tests.support.impatient_worker``: the real worker, whose waits are over in a moment.

It retries after a fifth of a second and not 30, so that a storm of faults blows over within a test.
Nothing else of it differs.
"""

from __future__ import annotations

from datetime import timedelta
from importlib import import_module

import django

SOON = timedelta(seconds=0.2)
AT_ONCE = SOON / 8
"""A storm opens the circuit a hundred times, and everything waits for each of them."""
WAITS: dict[tuple[str, str], timedelta | float] = {
    ("retry", "EVERY"): SOON,
    ("doubts", "RESEND_AFTER"): SOON,
    ("verdicts", "PASSED_BY_FOR"): SOON,
    ("circuits", "OPEN_FOR"): AT_ONCE,
    ("circuits", "OPEN_FOR_MAX"): AT_ONCE,
    ("circuits", "LOOK_OFTEN_S"): AT_ONCE.total_seconds(),
    ("senders.connections", "REGROW_EVERY_S"): SOON.total_seconds() / 2,
}
DOT_PATIENCE_S = 4.0
"""Long enough that a loaded machine is not taken for a server that says nothing."""


def be_impatient() -> None:
    """Shorten every wait that follows a fault, and the ten minutes of the final dot."""
    from pillarbox.delivery import conversation, retry
    from pillarbox.delivery.outcomes import Stage

    conversation.RFC_TIMEOUTS_S[Stage.DOT] = DOT_PATIENCE_S
    retry.STEPS = (SOON,) * 5
    for (module, name), wait in WAITS.items():
        where = import_module(f"pillarbox.delivery.{module}")
        assert type(getattr(where, name)) is type(wait)
        setattr(where, name, wait)


def main() -> None:
    """Work until SIGTERM."""
    django.setup()
    from django.core.management import call_command

    be_impatient()
    call_command("pillarbox", "worker", verbosity=0)


if __name__ == "__main__":
    main()
