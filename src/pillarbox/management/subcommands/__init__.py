"""The subcommands of ``manage.py pillarbox``, in the order of its help."""

from pillarbox.management.subcommands.base import Subcommand
from pillarbox.management.subcommands.deliver import Deliver
from pillarbox.management.subcommands.doctor import Doctor
from pillarbox.management.subcommands.doubts import Doubts, Resolve
from pillarbox.management.subcommands.mailers import Mailers
from pillarbox.management.subcommands.prune import Prune
from pillarbox.management.subcommands.status import Status
from pillarbox.management.subcommands.streams import PauseStream, ResumeStream
from pillarbox.management.subcommands.sweep import Sweep
from pillarbox.management.subcommands.verbs import VERBS
from pillarbox.management.subcommands.worker import Worker

__all__ = ["ALL", "Subcommand"]

ALL: tuple[Subcommand, ...] = (
    Status(),
    Doctor(),
    Worker(),
    Deliver(),
    Sweep(),
    *VERBS,
    Doubts(),
    Resolve(),
    PauseStream(),
    ResumeStream(),
    Mailers(),
    Prune(),
)
