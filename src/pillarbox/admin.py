"""Where Django's autodiscover looks; the admin itself is `pillarbox.console`."""

from pillarbox.console.circuits import CircuitAdmin
from pillarbox.console.messages import MessageAdmin
from pillarbox.console.workers import DrainAdmin, PauseAdmin

__all__ = ["CircuitAdmin", "DrainAdmin", "MessageAdmin", "PauseAdmin"]
