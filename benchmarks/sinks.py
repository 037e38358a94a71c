"""The mail servers: each counts what arrives and says when; with the proxy they are 20 ms away."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from benchmarks.place import ROOT
from benchmarks.servers import as_user, free_port, process, program

READ_EVERY_S = 0.005
"""How finely arrivals are told apart at smtp-sink, whose output is read that often."""


class Sink(ABC):
    """A mail server that runs, and when how many mails had come to it."""

    def __init__(self, port: int, output: IO[bytes]) -> None:
        self.port = port
        self.progress: list[tuple[float, int]] = []
        """(monotonic seconds, mails so far), as it was seen."""
        self._output = output
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def count(self) -> int:
        """How many mails have come."""
        return self.progress[-1][1] if self.progress else 0

    @abstractmethod
    def _take(self, output: bytes) -> None:
        """Read what the server's process has said."""

    def _read(self) -> None:
        with self._output:
            while output := os.read(self._output.fileno(), 1 << 20):
                self._take(output)
                time.sleep(READ_EVERY_S)


class Postfix(Sink):
    """Postfix's smtp-sink, written in C by people who have no part in this."""

    def _take(self, output: bytes) -> None:
        if counts := re.findall(rb"mesg=(\d+)\r", output):
            self.progress.append((time.monotonic(), int(counts[-1])))


class Wire(Sink):
    """`benchmarks.wire_sink`, which tells mails apart."""

    def __init__(self, port: int, output: IO[bytes]) -> None:
        self.arrived: dict[str, float] = {}
        self._rest = b""
        self._count = 0
        super().__init__(port, output)

    def _take(self, output: bytes) -> None:
        *lines, self._rest = (self._rest + output).split(b"\n")
        for line in lines:
            moment, recipient = line.decode().split(" ")
            self._count += 1
            self.arrived.setdefault(recipient, float(moment))
            self.progress.append((float(moment), self._count))


@contextmanager
def postfix() -> Iterator[Sink]:
    """Run smtp-sink, which announces PIPELINING and 8BITMIME."""
    port = free_port()
    user = as_user("nobody")
    options = ["-u", user] if user else []
    command = [program("smtp-sink"), *options, "-c", "-m", "512", f"127.0.0.1:{port}", "512"]
    with process(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/") as popen:
        assert popen.stdout is not None
        time.sleep(0.2)
        yield Postfix(port, popen.stdout)


@contextmanager
def wire(certificate: str = "") -> Iterator[Wire]:
    """Run the sink that tells mails apart; with a certificate it wants STARTTLS and AUTH."""
    command = [sys.executable, "-m", "benchmarks.wire_sink"]
    if certificate:
        command += ["--certificate", certificate]
    with process(command, stdout=subprocess.PIPE, cwd=ROOT) as popen:
        assert popen.stdout is not None
        yield Wire(int(popen.stdout.readline()), popen.stdout)


@contextmanager
def delayed(port: int) -> Iterator[int]:
    """Run the delay proxy before a server; yield its port."""
    command = [sys.executable, "-m", "benchmarks.delay_proxy", str(port)]
    with process(command, stdout=subprocess.PIPE, cwd=ROOT) as popen:
        assert popen.stdout is not None
        with popen.stdout:
            port = int(popen.stdout.readline())
        yield port


def make_certificate(folder: Path) -> str:
    """Make a certificate for 127.0.0.1 that signs itself; its key lies beside it."""
    certificate = folder / "sink.pem"
    extensions = ["subjectAltName=IP:127.0.0.1", "keyUsage=critical,digitalSignature,keyCertSign"]
    command = [program("openssl"), "req", "-x509", "-nodes", "-days", "7", "-subj", "/CN=sink"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-keyout", str(certificate.with_suffix(".key")), "-out", str(certificate)]
    for extension in extensions:
        command += ["-addext", extension]
    subprocess.run(command, check=True, capture_output=True)
    return str(certificate)
