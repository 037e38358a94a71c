"""The named points at which a worker process kills or stops itself; the product has no hooks.

This Django app wraps the product's functions when the process starts. At each point the process
looks into the folder of ``PILLARBOX_TORTURE`` for a file of the point's name: an order. Whoever
renames the file first carries it out, so that one order kills one process, whichever engine
started it, in whichever of its threads. The file's new name tells who it was.
"""

from __future__ import annotations

import inspect
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from threading import local
from typing import Any

from django.apps import AppConfig
from django.db import transaction

FOLDER = "PILLARBOX_TORTURE"
POINTS = (
    "claim-before-commit",
    "claim-after-commit",
    "begin-before-commit",
    "begin-after-commit",
    "open",
    "mail",
    "rcpt",
    "data",
    "body",
    "dot",
    "accepted",
    "record-before-commit",
    "record-after-commit",
)
"""In the order in which a message passes them. ``body`` is between two halves of a body, ``dot``
after the dot was written and before its reply is read, ``accepted`` after the 250 was read."""

_here = local()


class Points(AppConfig):
    """Lays the traps, in a worker's process alone."""

    name = "tests.torture"

    def ready(self) -> None:
        """Wrap what has to be wrapped. Raise where the product no longer has it by that name."""
        if FOLDER in os.environ:
            _lay_traps()


def order(folder: Path, point: str, how: signal.Signals = signal.SIGKILL) -> None:
    """Let the next process that comes by send itself a signal: SIGKILL or SIGSTOP."""
    if point not in POINTS:
        raise ValueError(f"{point!r} is no point. The points are {', '.join(POINTS)}.")
    draft = folder / f"draft of {point}"
    draft.write_text(str(int(how)))
    draft.rename(folder / point)


def carried_out(folder: Path, point: str) -> tuple[int, float] | None:
    """Return who carried out the order and when (monotonic, in seconds); None while nobody has."""
    for path in folder.glob(f"{point}.done.*"):
        _, _, pid, moment = path.name.split(".", 3)
        path.unlink()
        return int(pid), int(moment) / 1e9
    return None


def reach(point: str) -> None:
    """Carry out what is ordered for this point, if anything is."""
    path = Path(os.environ[FOLDER]) / point
    pid = os.getpid()
    try:
        how = int(path.read_text())
        path.rename(f"{path}.done.{pid}.{time.monotonic_ns()}")
    except FileNotFoundError:
        return
    os.kill(pid, how)


def _wrap(owner: Any, name: str, wrapper: Callable[[Any], Any]) -> None:
    original = getattr(owner, name)
    setattr(owner, name, wraps(original)(wrapper(original)))


def _lay_traps() -> None:
    from pillarbox.delivery import claims, conversation, database, ledger, taking
    from pillarbox.delivery.senders.pipeline import Pipeline

    _wrap(claims, "claim", _claim)
    _wrap(taking, "take_free_slot", _claim)
    _wrap(ledger.Ledger, "commit", _commit)
    _wrap(database, "run", _run)
    _wrap(database, "execute", _execute)
    _wrap(conversation.Conversation, "_step", _step)
    _wrap(conversation.Conversation, "hold", _hold)
    _wrap(conversation, "_blocks", _blocks)
    _wrap(Pipeline, "name", _name)
    _wrap(Pipeline, "_name_at_once", _name_at_once)
    _wrap(Pipeline, "_ask", _ask)
    _wrap(Pipeline, "block", _block)
    _wrap(Pipeline, "wrote", _wrote)
    _wrap(Pipeline, "_hear_dot", _hear_dot)


def _claim(claim: Any) -> Any:
    def claim_or_die(*args: Any, **kwargs: Any) -> Any:
        with _committing("claim-before-commit"):
            batch = claim(*args, **kwargs)
        if batch is not None and batch.messages:
            reach("claim-after-commit")
        return batch

    return claim_or_die


def _commit(commit: Any) -> Any:
    signature = inspect.signature(commit)

    def commit_or_die(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        verbs = ["begin"] if given["begins"] else []
        verbs += ["record"] if given["results"] else []
        with _committing(*[f"{verb}-before-commit" for verb in verbs]):
            entry = commit(*args, **kwargs)
        for verb in verbs:
            reach(f"{verb}-after-commit")
        return entry

    return commit_or_die


@contextmanager
def _committing(*points: str) -> Iterator[None]:
    _here.points = points
    try:
        yield
    finally:
        _here.points = ()


def _run(run: Any) -> Any:
    def run_or_die(using: str, work: Callable[[], Any], *args: Any, **kwargs: Any) -> Any:
        def work_or_die() -> Any:
            done = work()
            if getattr(done, "messages", True):  # a claim that found nothing is none
                for point in getattr(_here, "points", ()):
                    reach(point)
            return done

        return run(using, work_or_die, *args, **kwargs)

    return run_or_die


def _execute(execute: Any) -> Any:
    """Give a statement that is its own transaction a moment before its commit."""

    def execute_or_die(using: str, *args: Any, **options: Any) -> Any:
        points = getattr(_here, "points", ())
        if not points:
            return execute(using, *args, **options)
        with transaction.atomic(using=using):
            rows = execute(using, *args, **options)
            if rows:
                for point in points:
                    reach(point)
            return rows

    return execute_or_die


def _step(step: Any) -> Any:
    def step_or_die(conversation: Any, stage: Any) -> None:
        step(conversation, stage)
        if stage.value in POINTS and stage.value != "body":
            reach(stage.value)

    return step_or_die


def _hold(hold: Any) -> Any:
    def hold_or_die(conversation: Any, *args: Any, **kwargs: Any) -> Any:
        outcome = hold(conversation, *args, **kwargs)
        if type(outcome).__name__ == "Sent":
            reach("accepted")
        return outcome

    return hold_or_die


def _blocks(blocks: Any) -> Any:
    def blocks_or_die(content: bytes) -> Iterator[tuple[bytes, bool]]:
        for block, is_last in blocks(content):
            if is_last and (Path(os.environ[FOLDER]) / "body").exists():
                half = len(block) // 2
                yield block[:half], False
                reach("body")
                yield block[half:], True
            else:
                yield block, is_last

    return blocks_or_die


def _name(name: Any) -> Any:
    def name_or_die(pipeline: Any, letter: Any) -> None:
        reach("open")
        name(pipeline, letter)

    return name_or_die


def _name_at_once(name: Any) -> Any:
    def name_or_die(pipeline: Any, letter: Any) -> None:
        name(pipeline, letter)
        for point in ("mail", "rcpt", "data"):
            reach(point)

    return name_or_die


def _ask(ask: Any) -> Any:
    def ask_or_die(pipeline: Any, what: Any, *args: Any) -> None:
        ask(pipeline, what, *args)
        if what.name.lower() in POINTS:
            reach(what.name.lower())

    return ask_or_die


def _block(block: Any) -> Any:
    def half_or_all(pipeline: Any, *args: Any) -> Any:
        whole, letter = block(pipeline, *args), pipeline.writing
        if letter is None or not (Path(os.environ[FOLDER]) / "body").exists():
            return whole
        return whole[: max(1, (letter.body_until - pipeline.written) // 2)]

    return half_or_all


def _wrote(wrote: Any) -> Any:
    def wrote_or_die(pipeline: Any, size_bytes: int) -> bool:
        letter = pipeline.writing
        is_more: bool = wrote(pipeline, size_bytes)
        if letter is not None and pipeline.writing is None:
            reach("dot")
        elif letter is not None and pipeline.written > letter.body_from:
            reach("body")
        return is_more

    return wrote_or_die


def _hear_dot(hear: Any) -> Any:
    def hear_or_die(pipeline: Any, *args: Any) -> Any:
        events = hear(pipeline, *args)
        if any(type(getattr(event, "outcome", None)).__name__ == "Sent" for event in events):
            reach("accepted")
        return events

    return hear_or_die
