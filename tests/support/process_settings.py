"""The suite's settings, with the changes that a test gives to a process (see `processes`)."""

from __future__ import annotations

import json
import os
from typing import Any

from tests.settings import *  # noqa: F403

# The tests make the second one for themselves alone, and Django's checks would dial it.
DATABASES = {"default": DATABASES["default"]}  # noqa: F405

given: dict[str, Any] = json.loads(os.environ.get("PILLARBOX_TEST_SETTINGS", "{}"))
for name in given.pop("REMOVE", ()):
    globals().pop(name, None)
globals().update(given)
if "CELERY_BROKER_URL" in given:
    # As the project's __init__.py does: without it a process that wakes would dial another broker.
    import tests.support.celery_app  # noqa: F401
