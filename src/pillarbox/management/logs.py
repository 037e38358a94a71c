"""Log lines on stderr for a process that a person or a supervisor watches."""

from __future__ import annotations

import logging

_LEVELS = {0: logging.WARNING, 1: logging.INFO}


def to_stderr(verbosity: int) -> None:
    """Write what Pillarbox logs to stderr, unless the project's LOGGING sends it anywhere."""
    logger = logging.getLogger("pillarbox")
    if logger.hasHandlers():
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(_LEVELS.get(verbosity, logging.DEBUG))
