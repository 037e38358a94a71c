"""Points every mailer at a server of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from pillarbox import compat
from pillarbox.delivery import routes
from pillarbox.delivery.senders.connections import pool

SMTP = "pillarbox.backends.smtp.EmailBackend"


class Server(Protocol):
    """A server of tests/support."""

    host: str
    port: int


@contextmanager
def delivering_to(server: Server, *, path: str = SMTP, **options: Any) -> Iterator[None]:
    """Deliver by a real SMTP backend to ``server``, whatever alias a stream names."""
    given = {"host": server.host, "port": server.port, **options}
    with delivering_by(path, **given):
        yield


@contextmanager
def delivering_by(path: str, **options: Any) -> Iterator[None]:
    """Deliver by a backend of this dotted path, whatever alias a stream names."""
    saved = routes.override
    pool.close()  # an earlier test's delivery may have left one
    routes.override = lambda alias: compat.build_backend(alias, path, options)
    try:
        yield
    finally:
        routes.override = saved
        pool.close()


@contextmanager
def delivering_via(**servers: Server) -> Iterator[dict[str, dict[str, Any]]]:
    """Deliver by a real SMTP backend to each alias's server; yield the options, to be changed."""
    options = {alias: _options(server) for alias, server in servers.items()}
    saved = routes.override
    pool.close()  # an earlier test's delivery may have left one
    routes.override = lambda alias: compat.build_backend(alias, SMTP, options[alias])
    try:
        yield options
    finally:
        routes.override = saved
        pool.close()


def _options(server: Server) -> dict[str, Any]:
    return {"host": server.host, "port": server.port}
