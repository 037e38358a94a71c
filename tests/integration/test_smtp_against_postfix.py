"""Against a server that nobody here wrote: Postfix's smtp-sink."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.mail import EmailMessage

from pillarbox import compat
from pillarbox.backends.smtp import EmailBackend
from pillarbox.delivery.outcomes import Sent
from tests.services import SMTP_SINK
from tests.support.ports import free_port, wait_for_port

pytestmark = pytest.mark.service("smtp-sink")

MESSAGES = 200


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """Yield the port of an smtp-sink and the directory of the mails that it took."""
    assert SMTP_SINK is not None
    port = free_port()
    # Run by root it wants to be somebody else, who must be allowed to write.
    user = ["-u", "root"] if os.geteuid() == 0 else []
    command = [SMTP_SINK, *user, "-R", str(tmp_path), "-d", "mail.", f"127.0.0.1:{port}", "100"]
    with subprocess.Popen(command) as process:
        try:
            wait_for_port(port)
            yield port, tmp_path
        finally:
            process.terminate()


def test_two_hundred_mails_over_one_connection(sink: tuple[int, Path]) -> None:
    port, directory = sink
    backend = compat.build_backend(
        "relay", "pillarbox.backends.smtp.EmailBackend", {"host": "127.0.0.1", "port": port}
    )
    assert isinstance(backend, EmailBackend)
    backend.connect()
    used = backend.connection
    for number in range(MESSAGES):
        message = EmailMessage(
            f"Number {number}",
            ".\n..a leading dot\n" + "x" * number,
            "shop@example.org",
            [f"{number}@example.org", "Ann <ann@example.org>"],
        )
        outcome = backend.deliver(message)
        assert type(outcome) is Sent
        assert set(outcome.recipients) == {f"{number}@example.org", "ann@example.org"}
        assert backend.is_usable
        assert backend.connection is used
    backend.close()
    taken = [path.read_text() for path in directory.glob("mail.*")]
    numbers = [int(re.search(r"^Subject: Number (\d+)$", mail, re.M)[1]) for mail in taken]  # type: ignore[index]
    assert sorted(numbers) == list(range(MESSAGES))
