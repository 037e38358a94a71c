"""Where Django's autodiscover looks; the admin itself is `pillarbox.console`."""

from pillarbox.console.messages import MessageAdmin
from pillarbox.console.workers import DrainAdmin, PauseAdmin

__all__ = ["DrainAdmin", "MessageAdmin", "PauseAdmin"]
