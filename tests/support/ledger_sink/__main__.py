"""The sink as a process: prints where it listens, in JSON, and ends cleanly on SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import ssl
from pathlib import Path

from tests.support.ledger_sink.faults import Dice
from tests.support.ledger_sink.server import Sink


def main() -> None:
    """Serve until told to stop."""
    options = _parser().parse_args()
    tls = None
    if options.tls_cert is not None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(options.tls_cert, options.tls_key)
    script = options.script.removeprefix("@")
    if script != options.script:
        script = Path(script).read_text()
    sink = Sink(
        options.ledger,
        Dice(json.loads(script), options.seed),
        tls=tls,
        auth=options.auth,
        pipelining=options.pipelining,
    )
    asyncio.run(_serve(sink))


async def _serve(sink: Sink) -> None:
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    port = await sink.listen()
    print(json.dumps({"host": "127.0.0.1", "port": port}), flush=True)
    await told.wait()
    await sink.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.support.ledger_sink")
    parser.add_argument("--ledger", type=Path, required=True, help="the file, appended to")
    parser.add_argument("--script", default="{}", help="the faults in JSON, or @FILE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tls-cert", type=Path, help="announces STARTTLS")
    parser.add_argument("--tls-key", type=Path)
    parser.add_argument("--auth", action="store_true", help="announce AUTH PLAIN; takes anything")
    parser.add_argument("--pipelining", action="store_true", help="announce PIPELINING")
    return parser


main()
