"""A real SMTP server in its own process: keeps every mail's bytes, and says so on its output.

Run as ``python -m stage.mail_server DIRECTORY``. The first line of its output names the port; each
further one is a mail, written out right before the 250 that the sender waits for. It ends with the
process that started it, at the end of its input.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP


class Keeper:
    """aiosmtpd's handler."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.numbers = count(1)

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:
        path = self.directory / f"{next(self.numbers):05d}.eml"
        path.write_bytes(envelope.content)
        _say(
            moment=time.time(),
            path=str(path),
            sender=envelope.mail_from,
            recipients=envelope.rcpt_tos,
        )
        return f"250 2.0.0 Kept as {path.stem}"


def _say(**facts: Any) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


async def serve(directory: Path) -> None:
    """Serve on a free port of the loopback until the input ends."""
    loop = asyncio.get_running_loop()
    keeper, ended = Keeper(directory), asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    server = await loop.create_server(
        lambda: SMTP(keeper, hostname="stage.example", enable_SMTPUTF8=True, loop=loop),
        host="127.0.0.1",
        port=0,
    )
    _say(port=server.sockets[0].getsockname()[1])
    await ended.wait()
    server.close()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
