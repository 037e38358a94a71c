"""The address part of a mailbox, as the rows and the search know it; pure."""

from __future__ import annotations

from email.utils import parseaddr


def bare(mailbox: str) -> str:
    """Return ``user@example.org`` in lower case for ``User <User@Example.org>``.

    What cannot be parsed comes back as it is, in lower case: a row must name every recipient.
    """
    text = str(mailbox)
    if "<" in text or '"' in text or "(" in text:
        text = parseaddr(text)[1] or text
    return text.strip().lower()


def domain(mailbox: str) -> str:
    """Return the domain of a mailbox in ASCII (IDNA), empty where it has none."""
    name = bare(mailbox).rpartition("@")[2] if "@" in bare(mailbox) else ""
    try:
        return name if name.isascii() else name.encode("idna").decode("ascii")
    except UnicodeError:
        return ""
