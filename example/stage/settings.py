"""The shop's settings, and the clock that notes each commit."""

from __future__ import annotations

from settings import *  # noqa: F403
from settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "stage"]
