"""The settings of a torture's processes: the suite's, and the app that kills at named points."""

from tests.support.process_settings import *  # noqa: F403

INSTALLED_APPS = [*INSTALLED_APPS, "tests.torture.points.Points"]  # noqa: F405
