"""What happens to a letter on its connection."""

from __future__ import annotations

from dataclasses import dataclass

from pillarbox.delivery.outcomes import Outcome
from pillarbox.delivery.senders.letters import Letter

# Not frozen: that takes three times as long to make, and two are made for each mail.


@dataclass(slots=True)
class Named:
    """The server waits for the letter's body: may it be written?"""

    letter: Letter


@dataclass(slots=True)
class Ended:
    """The letter's outcome is there."""

    letter: Letter
    outcome: Outcome


@dataclass(slots=True)
class Returned:
    """The connection ended before the server had said a word of the letter."""

    letter: Letter


Event = Named | Ended | Returned
