"""Which fault is played when: by chance with a seed, or at the n-th time; and its words."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from tests.support.smtp_steps import Step

DISCONNECT: Final = "disconnect"
HANG: Final = "hang"
SLOW: Final = "slow"
GARBAGE: Final = "garbage"
REFUSALS: Final = {
    "421": "421 4.3.2 Closing",
    "4xx": "451 4.3.0 Try later",
    "5xx": "554 5.3.0 No",
    "530": "530 5.7.0 Authentication required",
    GARBAGE: "\x16\x03\x01 no word of SMTP",
}
"""The replies of the faults that have one."""
FAULTS: Final = (DISCONNECT, HANG, *REFUSALS, SLOW)
STEPS: Final = tuple(step for step in Step if step not in {Step.HELO, Step.NOOP, Step.RSET})
"""Where faults can be played, in the order of a session."""

OWN_WORDS: Final = {
    (Step.STARTTLS, "4xx"): "454 4.7.0 TLS is not available",
    (Step.AUTH, "4xx"): "454 4.7.0 Try later",
    (Step.AUTH, "5xx"): "535 5.7.8 Who are you?",
    (Step.RCPT, "5xx"): "550 5.1.1 Nobody here",
}
SILENT: Final = {DISCONNECT, HANG, GARBAGE, SLOW}
"""What may follow `Step.ACCEPTED`: a server that refuses what it has taken would be a liar."""

Script = Mapping[str, Iterable[Mapping[str, Any]]]
"""Step → [{"fault": …, "probability": 0 to 1} or {"fault": …, "nth": [1, 5]}, …]."""


def always(step: str, fault: str) -> Script:
    """Return the script that plays one fault every time."""
    return {step: [{"fault": fault, "probability": 1.0}]}


class Dice:
    """Says for each step in turn which fault is played, the same for the same seed and script.

    Each step has its own dice: what happens at one does not shift the others. Raise ValueError
    for a step, a fault or a key that does not exist.
    """

    def __init__(self, script: Script, seed: int = 0) -> None:
        self._script = {Step(step): [_checked(step, e) for e in es] for step, es in script.items()}
        self._random = {step: random.Random(f"{seed} {step}") for step in self._script}
        self._times: Counter[Step] = Counter()

    def throw(self, step: Step) -> str | None:
        """Return the fault of this occurrence of the step, None to be polite."""
        if step not in self._script:
            return None
        self._times[step] += 1
        for entry in self._script[step]:
            nth = self._times[step] in entry.get("nth", ())
            if self._random[step].random() < entry.get("probability", 0.0) or nth:
                return str(entry["fault"])
        return None


def words(step: Step, fault: str) -> str:
    """Return what is replied instead of the polite words."""
    return OWN_WORDS.get((step, fault), REFUSALS[fault])


def _checked(step: str, entry: Mapping[str, Any]) -> Mapping[str, Any]:
    if step not in STEPS or entry["fault"] not in FAULTS:
        raise ValueError(f"There is no fault {entry['fault']!r} at {step!r}.")
    if step == Step.ACCEPTED and entry["fault"] not in SILENT:
        raise ValueError(f"What is accepted is not answered with {entry['fault']!r}.")
    if unknown := entry.keys() - {"fault", "probability", "nth"}:
        raise ValueError(f"Unknown in the script: {sorted(unknown)}.")
    return entry
