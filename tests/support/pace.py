"""How fast a server answers, changed while it runs; and what it was sent, counted."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from email import message_from_bytes

from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.support.smtp_sink import Sink


@dataclass
class Pace:
    """Seconds between the final dot and its answer; a doubled mail counts as two."""

    seconds: float

    def give_to(self, sink: Sink) -> Pace:
        """Let the sink keep this pace. Call before it is connected to."""
        answer = sink.handle_DATA

        async def slow(server: SMTP, session: Session, envelope: Envelope) -> str:
            reply = await answer(server, session, envelope)
            await asyncio.sleep(self.seconds)
            return reply

        sink.handle_DATA = slow  # type: ignore[method-assign]
        return self


def arrived(sink: Sink) -> Counter[str]:
    """Return how often each Message-ID has come."""
    ids = (message_from_bytes(mail.data)["Message-ID"] for mail in list(sink.received))
    return Counter(str(one).strip() for one in ids)
