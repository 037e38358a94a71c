"""What is written in the caller's transaction: a message's birth, and the verbs on it."""

from pillarbox.outbox.enqueue import enqueue, enqueue_many
from pillarbox.outbox.options import Options
from pillarbox.outbox.verbs import cancel, hold, release, resolve, retry

__all__ = [
    "Options",
    "cancel",
    "enqueue",
    "enqueue_many",
    "hold",
    "release",
    "resolve",
    "retry",
]
