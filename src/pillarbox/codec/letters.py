"""Messages that are nothing but text, which most are: recognised and encoded in one pass.

Of such a message nothing runs anybody's code, and nothing needs a second look: it is of the common
shape, has one of Django's own classes, no bytes and no attribute that Django does not know. What
is written of it is what `pillarbox.codec.encode` would write.
"""

from __future__ import annotations

from collections.abc import Iterable
from json.encoder import encode_basestring_ascii
from typing import Any

from django.conf import settings
from django.core.mail import EmailAlternative, EmailMessage, EmailMultiAlternatives

from pillarbox.codec.common import Letter, is_common
from pillarbox.codec.encoding import NO_ATTRIBUTES, SHAPING, VERSION

_CLASSES = frozenset({EmailMessage, EmailMultiAlternatives})
_ATTRIBUTES = NO_ATTRIBUTES - SHAPING
"""What may stand on one message: with any other it may differ from its class."""
_quoted = encode_basestring_ascii
"""A string as JSON, in ASCII: of a whole message the encoder makes it half as fast."""

_NONE: tuple[str, ...] = ()
"""What `pillarbox.send_email` has where no addresses were given."""


def letter_of(email: EmailMessage) -> Letter | None:
    """Return a message of Django's as a letter, or None if it needs a second look."""
    if type(email) not in _CLASSES or email.attachments or not _ATTRIBUTES.issuperset(vars(email)):
        return None
    given: Any = email  # looked at below
    letter = Letter(
        given.subject,
        given.body,
        given.from_email,
        given.to,
        given.cc,
        given.bcc,
        given.reply_to,
        given.extra_headers,
        getattr(email, "alternatives", None) or (),
        given.content_subtype,
        type(email) is EmailMultiAlternatives,
    )
    return letter if _is_inert(letter) else None


def written(
    subject: Any,
    body: Any,
    recipient_list: Any,
    from_email: Any,
    html: Any,
    cc: Any,
    bcc: Any,
    reply_to: Any,
    headers: Any,
) -> Letter | None:
    """Return the message that Django would make of these arguments, or None as `letter_of` does.

    None, too, where it has no recipients, or an argument would be read but once.
    """
    letter = Letter(
        subject,
        body,
        settings.DEFAULT_FROM_EMAIL if from_email is None else from_email,
        _listed(recipient_list),
        [] if cc is _NONE else _listed(cc),
        [] if bcc is _NONE else _listed(bcc),
        [] if reply_to is _NONE else _listed(reply_to),
        {} if headers is None else headers,
        () if html is None else (EmailAlternative(html, "text/html"),),
        EmailMultiAlternatives.content_subtype,
        True,
    )
    # Whether it has recipients is asked last: of a QuerySet that would be a query.
    return letter if _is_inert(letter) and letter.recipients() else None


def _listed(addresses: Any) -> Any:
    return list(addresses) if type(addresses) is tuple else addresses


def _is_inert(letter: Letter) -> bool:
    """Whether it is of the common shape, no lazy texts, no headers that ignore case."""
    return (
        isinstance(letter.subject, str)
        and type(letter.from_email) is str  # a subclass may lack the hash by which it is kept
        and type(letter.headers) is dict
        and is_common(letter)
    )


def encode_letter(letter: Letter, *, message_id: str, date: str) -> str:
    """Return the content as text, Message-ID and Date, as its header has it, pinned in it."""
    kind = '"class":"EmailMultiAlternatives",' if letter.has_alternatives else ""
    pieces = [
        f'{{"v":{VERSION},{kind}"subject":{_quoted(letter.subject)}'
        f',"from_email":{_quoted(letter.from_email)}'
    ]
    for name, mailboxes in (
        ("to", letter.to),
        ("cc", letter.cc),
        ("bcc", letter.bcc),
        ("reply_to", letter.reply_to),
    ):
        if mailboxes:
            pieces.append(f',"{name}":[{_joined(mailboxes)}]')
    if letter.body:
        pieces.append(f',"body":{_quoted(letter.body)}')
    pieces.append(f',"message_id":{_quoted(message_id)},"date":{_quoted(date)}')
    if letter.headers:
        pairs = letter.headers.items()
        each = ",".join(f"{_quoted(name)}:{_quoted(value)}" for name, value in pairs)
        pieces.append(f',"headers":{{{each}}}')
    if letter.content_subtype != EmailMessage.content_subtype:
        pieces.append(f',"content_subtype":{_quoted(letter.content_subtype)}')
    if letter.alternatives:
        each = ",".join(f"[{_joined((text, kind))}]" for text, kind in letter.alternatives)
        pieces.append(f',"alternatives":[{each}]')
    pieces.append("}")
    return "".join(pieces)


def _joined(texts: Iterable[str]) -> str:
    return ",".join(map(_quoted, texts))
