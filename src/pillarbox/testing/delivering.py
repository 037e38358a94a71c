"""Delivers what was queued, in the test's own thread and connection."""

from __future__ import annotations

from pillarbox.delivery.inline import deliver_inline
from pillarbox.delivery.work import Tally

__all__ = ["Tally", "deliver"]


def deliver(*, using: str | None = None) -> Tally:
    """Deliver all that is due, now, and return how many attempts ended how.

    Works in the transaction of a ``TestCase`` and in a ``TransactionTestCase``; in a block of the
    test's own, ``atomic()`` within ``atomic()`` as it were, Django raises RuntimeError. Mail whose
    ``send_at`` or retry is still to come stays queued: see `freeze`.

    Args:
        using: The database; the one that the routers give for `Message` if None.

    Returns:
        A ``Counter`` of ``"sent"``, ``"partly_sent"``, ``"retry"``, ``"failed"``, ``"in_doubt"``,
        ``"mailer_down"`` and ``"expired"``.
    """
    return deliver_inline(using=using)
