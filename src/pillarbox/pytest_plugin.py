"""pytest fixtures for projects that use Pillarbox; `pillarbox.testing` says what they do.

Loaded at pytest's start, before any settings are: nothing of Django is imported until a test asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pillarbox.testing import FrozenClock, ScriptedMailer, Tally


@pytest.fixture
def pillarbox_deliver() -> Callable[..., Tally]:
    """Return `pillarbox.testing.deliver`; the test itself asks for the database."""
    from pillarbox import testing

    return testing.deliver


@pytest.fixture
def pillarbox_mailer() -> Iterator[ScriptedMailer]:
    """Put a `pillarbox.testing.ScriptedMailer` in the place of every mailer for one test."""
    from pillarbox import testing

    with testing.ScriptedMailer() as mailer:
        yield mailer


@pytest.fixture
def pillarbox_freeze() -> Iterator[Callable[..., FrozenClock]]:
    """Return `pillarbox.testing.freeze`, in force from the call to the end of the test."""
    from pillarbox import testing

    with ExitStack() as stack:
        yield lambda moment=None: stack.enter_context(testing.freeze(moment))
