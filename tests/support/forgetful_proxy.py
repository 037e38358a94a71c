"""A TCP proxy before a database that swallows the answer to a COMMIT and cuts the connection.

The transaction has taken place, and its client does not know. ``forget("begin")`` waits for the
next transaction of a worker that claims, begins or records, told by its statements.
"""

from __future__ import annotations

import re
import selectors
import socket
import threading
from contextlib import suppress
from types import TracebackType

_OPENING = re.compile(rb"\bBEGIN\b|START TRANSACTION|SET autocommit ?= ?0", re.IGNORECASE)
_COMMIT = re.compile(rb"\bCOMMIT\b(?! ?=)", re.IGNORECASE)
_QUOTE = rb"[\"`]"
_KINDS = (
    ("record", re.compile(rb"INSERT INTO " + _QUOTE + rb"pillarbox_attempt")),
    ("begin", re.compile(rb"SET " + _QUOTE + rb"begun_at" + _QUOTE + rb" = '")),
    ("claim", re.compile(rb"SET " + _QUOTE + rb"state" + _QUOTE + rb" = 'sending'")),
)
_PREPARE = re.compile(rb"PREPARE (pillarbox_\w+) AS([^\0]*)")
_EXECUTE = re.compile(rb"EXECUTE (pillarbox_\w+) \(")
# Bind: the portal, which has no name, and the statement's.
_BIND = re.compile(rb"\0(pillarbox_\w+)\0")
_WORDS = {b"recorded AS": "record", b"begun AS": "begin", b"claimed AS": "claim"}


class ForgetfulProxy:
    """Listens on ``port``; ``forgotten`` tells what was swallowed."""

    host = "127.0.0.1"

    def __init__(self, upstream: tuple[str, int]) -> None:
        self.forgotten: list[str] = []
        self._upstream = upstream
        self._wanted: str | None = None
        self._happened = threading.Condition()
        self._stopped = threading.Event()
        self._listener = socket.create_server((self.host, 0))
        self._listener.settimeout(0.05)
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._listen, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> ForgetfulProxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def forget(self, kind: str, *, timeout_s: float = 20) -> None:
        """Swallow the answer to the next commit of this kind, and return when that was done."""
        with self._happened:
            self._wanted = kind
            if not self._happened.wait_for(lambda: self._wanted is None, timeout_s):
                raise TimeoutError(f"No {kind} was committed within {timeout_s} s")

    def _takes(self, kinds: set[str]) -> bool:
        with self._happened:
            if self._wanted is None or self._wanted not in kinds:
                return False
            self.forgotten.append(self._wanted)
            self._wanted = None
            return True

    def _tell(self) -> None:
        with self._happened:
            self._happened.notify_all()

    def _listen(self) -> None:
        while not self._stopped.is_set():
            with suppress(TimeoutError):
                client, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=[client], daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), client, socket.create_connection(self._upstream, 5) as server:
            client.settimeout(5)
            self._pump(client, server)

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        said = b""
        prepared: dict[bytes, bytes] = {}
        with selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ)
            selector.register(server, selectors.EVENT_READ)
            while not self._stopped.is_set():
                for key, _ in selector.select(0.05):
                    octets = key.fileobj.recv(65536)  # type: ignore[union-attr]
                    if not octets:
                        return
                    if key.fileobj is server:
                        client.sendall(octets)
                        continue
                    said += octets
                    is_commit = bool(_COMMIT.search(octets))
                    prepared.update(_PREPARE.findall(octets))
                    kinds = _kinds(said) if is_commit else _alone(octets, prepared)
                    is_forgotten = self._takes(kinds)
                    server.sendall(octets)
                    if is_forgotten:
                        server.recv(65536)  # it has taken place
                        self._tell()
                        return
                    if is_commit or _OPENING.search(octets):
                        said = b""


def _kinds(said: bytes) -> set[str]:
    found = next((kind for kind, pattern in _KINDS if pattern.search(said)), None)
    return {found} if found else set()


def _alone(octets: bytes, prepared: dict[bytes, bytes]) -> set[str]:
    """Return what a prepared statement does that is its own transaction."""
    names = [*_BIND.findall(octets), *_EXECUTE.findall(octets)]
    kinds = [_kind(prepared.get(name, b"")) for name in names]
    return {kind for kind in kinds if kind is not None}


def _kind(definition: bytes) -> str | None:
    """Return what a statement does; one that records may begin as well."""
    return next((kind for word, kind in _WORDS.items() if word in definition), None)
