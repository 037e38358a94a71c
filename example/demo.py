"""Plays the main job with real parts: a shop, a worker, a mail server, and visitors over HTTP.

    python example/demo.py            plays, judges and leaves nothing behind
    python example/demo.py --keep     leaves everything running until Ctrl-C

Exits with 1 if a single mail is missing, doubled or altered.
"""

from __future__ import annotations

import argparse
import platform
import signal
import sys
import time
from typing import TYPE_CHECKING

import django

from stage.processes import DemoFailed
from stage.screen import Screen
from stage.theatre import ADMIN, Theatre

if TYPE_CHECKING:
    from stage.postbox import Postbox
    from stage.scenes import Result

READERS, READERS_FAST = 500, 40
MAILING_WITHIN_S = 60
LATE_S = 1.0
"""How long to wait, after everything was sent, for a mail that should not come."""


def main() -> int:
    """Play, judge, and say so by the exit code."""
    arguments = _arguments()
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell has made us ignore it
        signal.signal(number, signal.default_int_handler)
    sys.stdout.reconfigure(errors="replace")  # an old terminal lacks some letters, and that is all
    screen = Screen()
    versions = f"Django {django.get_version()}, Python {platform.python_version()}"
    screen.head("Pillarbox: the demo", versions)
    with Theatre(screen) as theatre:
        try:
            _run(theatre, arguments.readers, keep=arguments.keep)
        except DemoFailed as failure:
            _explain(theatre, str(failure))
            return 1
        except KeyboardInterrupt:
            screen.close()
            screen.plain("\nStopping everything that was started.")
            return 0 if theatre.is_kept else 130
        except Exception:
            _explain(theatre, "The demo itself went wrong.")
            raise
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the stopping itself is not to be stopped
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--keep", action="store_true", help="leave everything running")
    parser.add_argument(
        "--fast",
        dest="readers",
        action="store_const",
        const=READERS_FAST,
        default=READERS,
        help=f"{READERS_FAST} customers in place of {READERS}",
    )
    return parser.parse_args()


def _run(theatre: Theatre, readers: int, *, keep: bool) -> None:
    started = time.monotonic()
    postbox = theatre.open_postbox()
    theatre.fill_database(readers)
    theatre.start_worker()
    theatre.start_site()
    results = _play(theatre, postbox, readers)
    _judge(theatre, postbox, results, started)
    if keep:
        _keep(theatre)


def _play(theatre: Theatre, postbox: Postbox, readers: int) -> list[Result]:
    from stage import books
    from stage.scenes import Play

    play = Play(theatre, postbox, readers)
    results = [play.sign_up(), play.order(), play.notice()]
    theatre.screen.expect_notices(readers)
    results += [play.reset(), play.declined()]
    theatre.wait(lambda: not books.unfinished(), "the last mail", within_s=MAILING_WITHIN_S)
    _let_settle(postbox)
    theatre.screen.close_notices()
    return results


def _let_settle(postbox: Postbox) -> None:
    """Return once nothing has arrived for a second."""
    before = -1
    while (now := len(postbox.arrivals)) != before:
        before = now
        time.sleep(LATE_S)


def _judge(theatre: Theatre, postbox: Postbox, results: list[Result], started: float) -> None:
    from stage import books
    from stage.apps import read_commits

    arrivals = postbox.arrivals
    theatre.screen.table(*books.rows(results, arrivals, read_commits(theatre.commits)))
    faults = books.faults(results, arrivals)
    if faults:
        more = f"\n  … and {len(faults) - 12} more" if len(faults) > 12 else ""
        raise DemoFailed("\n  ".join(["Not every mail is as it was meant:", *faults[:12]]) + more)
    theatre.screen.verdict(
        f"{len(arrivals)} mails were meant, and each arrived once, unaltered, as the row's "
        f"Message-ID says. {time.monotonic() - started:.0f} s."
    )


def _keep(theatre: Theatre) -> None:
    theatre.is_kept = True
    inbox = theatre.open_inbox()
    for line in (
        "Everything goes on running until Ctrl-C:",
        f"  the shop    {theatre.site}/",
        f"  the admin   {theatre.site}/admin/",
        f"    user      {ADMIN}",
        f"    password  {theatre.password}",
        f"  the mail    {inbox}/   (what has arrived at the mail server)",
        f"  the files   {theatre.directory}",
    ):
        theatre.screen.plain(line)
    while True:
        for child in theatre.children:
            child.check()
        time.sleep(0.5)


def _explain(theatre: Theatre, failure: str) -> None:
    theatre.keep_directory = True
    theatre.screen.failure(failure)
    for child in theatre.children:
        if tail := child.tail():
            theatre.screen.plain(f"\n--- the last lines of the {child.name} ({child.log})\n{tail}")
    theatre.screen.plain(f"\nWhat was written is in {theatre.directory}.")


if __name__ == "__main__":
    sys.exit(main())
