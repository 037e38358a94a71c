"""A mail as its reader sees it, and the judgement whether what arrived is what was meant."""

from __future__ import annotations

import email
import email.policy
import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields
from email.message import EmailMessage
from pathlib import Path

SENDER = "Fern & Quill <post@fern-and-quill.example>"


@dataclass(frozen=True)
class Mail:
    """What has to be equal: two of these are the same mail or they are not."""

    recipients: tuple[str, ...]
    subject: str
    text: str
    html: str = ""
    attachments: tuple[tuple[str, str, str], ...] = ()
    """Name, type and SHA-256 of the bytes."""
    sender: str = SENDER
    unsubscribe: str = ""

    def __str__(self) -> str:
        return f"“{self.subject}” to {', '.join(self.recipients)}"


@dataclass(frozen=True)
class Arrival:
    """A mail as the server got it, and when it said 250."""

    moment: float
    message_id: str
    mail: Mail

    @classmethod
    def read(cls, path: Path, moment: float, recipients: Iterable[str]) -> Arrival:
        """Read the bytes that the server has kept."""
        parsed = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
        text, html = (parsed.get_body((kind,)) for kind in ("plain", "html"))
        mail = Mail(
            recipients=tuple(recipients),
            subject=_header(parsed, "Subject"),
            text=_content(text),
            html=_content(html),
            attachments=tuple(_attachment(part) for part in parsed.iter_attachments()),
            sender=_header(parsed, "From"),
            unsubscribe=_header(parsed, "List-Unsubscribe"),
        )
        return cls(moment, _header(parsed, "Message-ID"), mail)


def _header(parsed: EmailMessage, name: str) -> str:
    # Where a long value starts on the next line, some parsers keep the space before it.
    return str(parsed.get(name, "")).strip()


def _content(part: EmailMessage | None) -> str:
    return "" if part is None else body(part.get_content())


def _attachment(part: EmailMessage) -> tuple[str, str, str]:
    digest = hashlib.sha256(part.get_payload(decode=True)).hexdigest()
    return str(part.get_filename()), part.get_content_type(), digest


def body(text: str) -> str:
    """Return a text as SMTP carries it: its lines, whatever ends them, and no empty last one."""
    return text.replace("\r\n", "\n").rstrip("\n")


def judge(meant: Iterable[Mail], arrived: Iterable[Mail]) -> list[str]:
    """Return a line for every mail that is missing, doubled, altered, or that nobody meant."""
    expected, found = Counter(meant), Counter(arrived)
    missing, surplus = list((expected - found).elements()), list((found - expected).elements())
    faults = []
    for mail in missing:
        altered = next((other for other in surplus if _is_like(mail, other)), None)
        if altered is None:
            faults.append(f"missing: {mail}")
        else:
            surplus.remove(altered)
            faults.append(f"altered ({', '.join(_differences(mail, altered))}): {mail}")
    return faults + [
        f"{'doubled' if mail in expected else 'not meant'}: {mail}" for mail in surplus
    ]


def _is_like(meant: Mail, arrived: Mail) -> bool:
    """Whether one may be the other, altered: no other mail has its subject and recipients."""
    same = (meant.recipients == arrived.recipients, meant.subject == arrived.subject)
    return all(same) or (any(same) and meant.text == arrived.text)


def _differences(meant: Mail, arrived: Mail) -> list[str]:
    names = [field.name for field in fields(Mail)]
    return [name for name in names if getattr(meant, name) != getattr(arrived, name)]
