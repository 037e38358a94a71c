"""An SMTP server that notes when each mail was there: ``python -m benchmarks.wire_sink``.

For what Postfix's smtp-sink cannot: with ``--certificate`` it wants STARTTLS and AUTH, and it
tells mails apart. Prints its port, then a line a mail: its monotonic time in seconds when the dot
was read, before the reply, and the recipient.
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
import sys
from pathlib import Path

DOT = b"\r\n.\r\n"


class Session:
    """One client's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.is_secure = False
        self.recipient = ""

    async def run(self, tls: ssl.SSLContext | None) -> None:
        """Answer until the client goes."""
        self._say("220 sink.example.org ESMTP")
        while line := await self.reader.readline():
            verb = line[:4].upper()
            if verb == b"EHLO":
                self._greet(tls)
            elif verb == b"STAR" and tls is not None:
                self._say("220 2.0.0 Go ahead")
                await self.writer.start_tls(tls)
                self.is_secure = True
            elif tls is not None and not self.is_secure and verb in {b"AUTH", b"MAIL"}:
                self._say("530 5.7.0 STARTTLS first")
            elif verb == b"DATA":
                await self._data()
            elif verb == b"QUIT":
                self._say("221 2.0.0 Bye")
                return
            else:
                self._other(verb, line)

    def _greet(self, tls: ssl.SSLContext | None) -> None:
        offers = ["sink.example.org", "PIPELINING", "8BITMIME"]
        if tls is not None:
            offers.append("AUTH PLAIN" if self.is_secure else "STARTTLS")
        last = offers.pop()
        self._say("".join(f"250-{offer}\r\n" for offer in offers) + f"250 {last}")

    def _other(self, verb: bytes, line: bytes) -> None:
        if verb == b"RCPT":
            self.recipient = line.partition(b"<")[2].partition(b">")[0].decode()
        known = {b"MAIL", b"RCPT", b"RSET", b"NOOP", b"HELO"}
        logged_in = "235 2.7.0 Welcome" if verb == b"AUTH" else "502 5.5.1 What?"
        self._say("250 2.0.0 Ok" if verb in known else logged_in)

    async def _data(self) -> None:
        self._say("354 End with a dot")
        await self.reader.readuntil(DOT)
        sys.stdout.write(f"{asyncio.get_running_loop().time():.6f} {self.recipient}\n")
        sys.stdout.flush()
        self._say("250 2.0.0 Taken")

    def _say(self, reply: str) -> None:
        self.writer.write(reply.encode() + b"\r\n")


async def serve(tls: ssl.SSLContext | None) -> None:
    """Listen on loopback until cancelled."""

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await Session(reader, writer).run(tls)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass  # a client may go as it likes
        finally:
            writer.close()

    server = await asyncio.start_server(run, "127.0.0.1", 0, backlog=256)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    """Serve from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wire_sink")
    parser.add_argument("--certificate", type=Path, help="with its key beside it, in .key")
    certificate = parser.parse_args().certificate
    tls = None
    if certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate, certificate.with_suffix(".key"))
    asyncio.run(serve(tls))


if __name__ == "__main__":
    main()
