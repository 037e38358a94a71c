"""The SMTP server of a run, a process of its own, and the ledger that it keeps."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Ledger:
    """What the server has accepted so far, read from its file as it grows."""

    def __init__(self, path: Path, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._path = path
        self._read = 0
        self._accepted: list[tuple[float, str]] = []

    @property
    def accepted(self) -> int:
        """How many mails the server has accepted, those of a second copy included."""
        return len(self.read())

    def read(self) -> list[tuple[float, str]]:
        """Return when (monotonic, in seconds) it decided on 250, and for which Message-ID."""
        with self._path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                if b'"accepted"' in line:
                    step = json.loads(line)
                    self._accepted.append((step["t"], step["message_id"]))
        return self._accepted


@contextmanager
def ledger_sink(folder: Path, *, pipelining: bool) -> Iterator[Ledger]:
    """Run the server while the block lasts; it may announce PIPELINING."""
    path = folder / "ledger.jsonl"
    command = [sys.executable, "-m", "tests.support.ledger_sink", "--ledger", str(path)]
    command += ["--pipelining"] if pipelining else []
    with (folder / "sink.log").open("wb") as log:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
        )
    try:
        assert server.stdout is not None
        said = server.stdout.readline()
        if not said:
            raise RuntimeError((folder / "sink.log").read_text())
        address = json.loads(said)
        yield Ledger(path, address["host"], address["port"])
    finally:
        server.kill()
        server.communicate()
