"""Which database a test is about; `.ci/run` runs the suite on each of them."""

from __future__ import annotations

import pytest
from django.db import connection


def only_on_postgresql(reason: str) -> pytest.MarkDecorator:
    """Skip a test elsewhere: it asks for what PostgreSQL alone has."""
    return pytest.mark.skipif(connection.vendor != "postgresql", reason=reason)
