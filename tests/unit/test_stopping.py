"""What signals do to a command that is to stop."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

from pillarbox.management import stopping

UNKILLABLE = """
import signal
from pillarbox.management.stopping import by_signals

with by_signals() as stop:
    # What the default action does to the first process of a container: nothing.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    handle = signal.getsignal(signal.SIGTERM)
    handle(signal.SIGTERM, None)
    print("stop is set:", stop.is_set(), flush=True)
    handle(signal.SIGTERM, None)
    print("it goes on")
"""


def test_a_second_signal_ends_even_the_first_process_of_a_container() -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNKILLABLE], capture_output=True, text=True, check=False, timeout=20
    )
    assert done.returncode == 128 + signal.SIGTERM
    assert done.stdout == "stop is set: True\n"
    assert "A second signal stops at once" in done.stderr


def test_the_handlers_of_before_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stopping.by_signals():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_only_the_caller_can_ask_to_stop() -> None:
    stopped = []

    def run() -> None:
        with stopping.by_signals() as stop:
            stopped.append(stop.wait(0.01))
            stop.set()
            stopped.append(stop.wait())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    assert stopped == [False, True]
