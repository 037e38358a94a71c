"""Who looks at the admin."""

from __future__ import annotations

import pytest
from django.test import Client

from tests.unit.console.staff import login


@pytest.fixture
def viewer(db: None) -> Client:
    """May see that messages are there, and what became of them."""
    return login("view_message")


@pytest.fixture
def operator(db: None) -> Client:
    """May use the verbs, too."""
    return login("view_message", "operate")


@pytest.fixture
def reader(db: None) -> Client:
    """May read what is in them."""
    return login("view_message", "view_content")
