"""An SMTP server that keeps a ledger of every step of every mail, and misbehaves on demand.

    with ledger_sink({"mail": [{"fault": "421", "probability": 0.1}]}, seed=7) as sink:
        …  # deliver to sink.host, sink.port
    assert sink.accepted() == {"<1@example.org>": 1}

As a process: ``python -m tests.support.ledger_sink --ledger FILE [--script JSON] [--seed N]``
prints ``{"host": …, "port": …}`` once it listens. The ledger has one JSON object a line, written
before the step is answered: ``t`` (monotonic s), ``wall`` (Unix s), ``connection``, ``step`` (of
`Step`, and ``closed``), ``recipients``, from the dot on ``message_id``, and ``fault`` where one was
played. A mail with a line ``accepted`` is delivered, whatever the client gets to hear of it.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.ledger_sink.faults import Dice, Script
from tests.support.ledger_sink.server import Sink

ROOT = Path(__file__).parents[3]

Entry = dict[str, Any]


@dataclass
class LedgerSink:
    """A sink that listens, and what its ledger says; readable after it has ended, too."""

    host: str
    port: int
    ledger: Path
    last: list[Entry] | None = None
    """The whole ledger once the sink has ended."""

    def entries(self, step: str = "") -> list[Entry]:
        """Return what the ledger has so far, of one step or of all."""
        read = read_ledger(self.ledger) if self.last is None else self.last
        return [entry for entry in read if step in {"", entry["step"]}]

    def accepted(self) -> Counter[str]:
        """Return how often each Message-ID was taken."""
        return Counter(entry["message_id"] for entry in self.entries("accepted"))

    def faults(self, step: str) -> Counter[str]:
        """Return how often each fault was played at a step."""
        return Counter(entry["fault"] for entry in self.entries(step) if "fault" in entry)


def read_ledger(path: Path) -> list[Entry]:
    """Return a ledger's entries; a last line that is still being written is left out."""
    whole = path.read_bytes().rpartition(b"\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


@contextmanager
def ledger_sink(
    script: Script | None = None,
    *,
    seed: int = 0,
    tls: ssl.SSLContext | None = None,
    auth: bool = False,
    pipelining: bool = False,
) -> Iterator[LedgerSink]:
    """Run a sink in a thread of this process while the block lasts."""
    with _file() as ledger:
        dice = Dice(script or {}, seed)
        server = Sink(ledger, dice, tls=tls, auth=auth, pipelining=pipelining)
        with _running(server) as port:
            sink = LedgerSink("127.0.0.1", port, ledger)
            yield sink
        sink.last = read_ledger(ledger)


@contextmanager
def ledger_sink_process(
    script: Script | None = None, *, seed: int = 0, options: Sequence[str] = ()
) -> Iterator[LedgerSink]:
    """Run a sink as a process of its own, which shares no interpreter with the test."""
    with _file() as ledger:
        command = [sys.executable, "-m", "tests.support.ledger_sink", "--ledger", str(ledger)]
        command += ["--script", json.dumps(script or {}), "--seed", str(seed), *options]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                sink = LedgerSink(**json.loads(process.stdout.readline()), ledger=ledger)
                yield sink
            finally:
                process.terminate()
                process.wait(10)
        assert process.returncode == 0
        sink.last = read_ledger(ledger)


@contextmanager
def _file() -> Iterator[Path]:
    with tempfile.NamedTemporaryFile(suffix=".ledger") as file:
        yield Path(file.name)


@contextmanager
def _running(server: Sink) -> Iterator[int]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="ledger-sink", daemon=True)
    with ExitStack() as undo:
        undo.callback(loop.close)
        thread.start()
        undo.callback(thread.join, 10)
        undo.callback(loop.call_soon_threadsafe, loop.stop)
        port = asyncio.run_coroutine_threadsafe(server.listen(), loop).result(10)
        undo.callback(lambda: asyncio.run_coroutine_threadsafe(server.close(), loop).result(10))
        yield port
