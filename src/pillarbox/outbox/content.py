"""The content arguments of ``send_email``: checked by their names, made a message; no database."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from email.errors import MessageError
from email.message import Message as MIMEPart
from typing import Any, NamedTuple, cast

from django.conf import settings
from django.core.mail import EmailMultiAlternatives
from django.utils.functional import Promise

from pillarbox import addresses, codec
from pillarbox.addresses import characters
from pillarbox.exceptions import InvalidMessage

EXPLAINED = (
    *(ValueError, TypeError, LookupError, AttributeError, AssertionError),
    *(MessageError, RecursionError),
)
"""What Django and Python's `email` raise for a content that cannot be sent."""
_TEXTS = (str, Promise)
_NO_LISTS = (str, bytes, Promise, Mapping)
_OPTIONAL = ("from_email", "html")
_TEXT = ("subject", "body", "from_email", "html")
_ADDRESSES = ("recipient_list", "cc", "bcc", "reply_to")
_ADDRESS_REMEDY = 'Pass "ada@example.org" or "Ada <…>".'
_HARMLESS = "somebody@example.org"
_is_header_name = re.compile(r"[!-9;-~]+").fullmatch  # RFC 5322 section 2.2


_REMEDIES = {
    "subject": "Pass one line of valid Unicode.",
    "body": "Pass valid Unicode.",
    "html": "Pass valid Unicode.",
    "headers": "Pass one-line strings that the header can hold.",
    "attachments": "Pass (filename, content, mimetype) or a MIME part.",
}


class Content(NamedTuple):
    """The arguments under their own names, as `pillarbox.send_email` documents them.

    Most calls are a `letter`, of which nothing more needs to be asked. Any other is to be
    `checked` first. What Django's own code would find fault with comes to light in
    `pillarbox.codec.check`: then `explain` names the argument.
    """

    subject: str | Promise = ""
    body: str | Promise = ""
    recipient_list: Iterable[str] = (_HARMLESS,)
    from_email: str | None = _HARMLESS
    html: str | None = None
    cc: Iterable[str] = ()
    bcc: Iterable[str] = ()
    reply_to: Iterable[str] = ()
    headers: Mapping[str, str] | None = None
    attachments: Sequence[Any] = ()

    def letter(self) -> codec.Letter | None:
        """Return the message where it is but text, and nothing in it could be found fault with."""
        return codec.written(*self[:-1]) if self.attachments == () else None

    def checked(self) -> Content:
        """Return the content, each iterable read once. Raise InvalidMessage for a wrong kind."""
        for name in _TEXT:
            _check_text(name, getattr(self, name))
        read: dict[str, Any] = {}
        for name in _ADDRESSES:
            given = getattr(self, name)
            if given != ():
                read[name] = _read_addresses(name, given)  # a generator or a QuerySet: once, here
        _check_sender(self.from_email)
        content = self._replace(**read)
        if not content.recipient_list and not content.cc and not content.bcc:
            raise InvalidMessage("recipient_list is empty. Pass at least one address.")
        _check_headers(self.headers)
        _check_attachments(self.attachments)
        return content

    def email(self) -> EmailMultiAlternatives:
        """Make the message. Raise whatever Django raises for an attachment."""
        email = EmailMultiAlternatives(
            cast("str", self.subject),
            cast("str", self.body),
            self.from_email,
            to=list(self.recipient_list),
            cc=list(self.cc),
            bcc=list(self.bcc),
            reply_to=list(self.reply_to),
            headers=dict(self.headers or {}),
            attachments=list(self.attachments),
        )
        if self.html is not None:
            email.attach_alternative(self.html, "text/html")
        return email

    def explain(self, error: Exception) -> None:
        """Raise InvalidMessage that names the argument behind ``error``, if it is one of these.

        Each is tried by itself in a message that is harmless otherwise.
        """
        if isinstance(error, InvalidMessage):
            return
        for name, where, value in self._each():
            try:
                codec.check(Content(**{name: value}).checked().email())
            except InvalidMessage:
                raise
            except Exception as reason:  # noqa: BLE001 - it is told in the caller's words
                remedy = _REMEDIES.get(name, _ADDRESS_REMEDY)
                text = f"{where} cannot be sent: {str(reason).rstrip('.')}. {remedy}"
                raise InvalidMessage(text) from error

    def _each(self) -> Iterator[tuple[str, str, Any]]:
        """Yield each argument, or each of its items: its name, how to point to it, its value."""
        for name, value in self._asdict().items():
            if name in _ADDRESSES:
                yield from (
                    (name, f"{name}[{n}] ({characters(item)!r})", [item])
                    for n, item in enumerate(value)
                )
                if len(value) > 1:  # what is right alone may be wrong behind another
                    yield name, name, value
            elif name == "attachments":
                yield from ((name, f"{name}[{n}]", [item]) for n, item in enumerate(value))
            elif name == "headers":
                yield from ((name, f"{name}[{key!r}]", {key: value[key]}) for key in value or {})
            elif name == "from_email":
                shown = f"DEFAULT_FROM_EMAIL ({settings.DEFAULT_FROM_EMAIL!r})"
                yield name, shown if value is None else f"{name} ({characters(value)!r})", value
            else:
                yield name, name, value


def _check_text(name: str, value: object) -> None:
    if isinstance(value, _TEXTS) or (value is None and name in _OPTIONAL):
        return
    raise InvalidMessage(f"{name} is {_kind(value)}. Pass a string.")


def _read_addresses(name: str, value: object) -> tuple[str, ...]:
    if isinstance(value, _NO_LISTS) or not isinstance(value, Iterable):
        raise InvalidMessage(
            f'{name} is {_kind(value)}. Pass a list of addresses, such as ["ada@example.org"].'
        )
    mailboxes = tuple(value)
    for number, mailbox in enumerate(mailboxes):
        if not isinstance(mailbox, _TEXTS) or not characters(mailbox).strip():
            raise InvalidMessage(f"{name} holds {mailbox!r}. Pass addresses only.")
        _check_mailbox(f"{name}[{number}]", mailbox)
    return mailboxes


def _check_mailbox(where: str, mailbox: object) -> None:
    fault = addresses.fault(mailbox)
    if fault is not None:
        raise InvalidMessage(f"{where} ({characters(mailbox)!r}) {fault}. {_ADDRESS_REMEDY}")


def _check_sender(from_email: str | None) -> None:
    if from_email is None:
        _check_mailbox("DEFAULT_FROM_EMAIL", settings.DEFAULT_FROM_EMAIL)
    else:
        _check_mailbox("from_email", from_email)


def _check_headers(headers: object) -> None:
    if headers is None:
        return
    if not isinstance(headers, Mapping):
        raise InvalidMessage(f"headers is {_kind(headers)}. Pass a dictionary.")
    for name, value in headers.items():
        if not isinstance(name, str) or not _is_header_name(name):
            raise InvalidMessage(
                f"headers has the name {name!r}. Use printable ASCII without blanks and colons."
            )
        if name.lower() == "bcc":
            raise InvalidMessage("headers has Bcc, which everybody would see. Pass bcc instead.")
        if not isinstance(value, str | Promise):
            raise InvalidMessage(f"headers[{name!r}] is {_kind(value)}. Pass a string.")


def _check_attachments(attachments: object) -> None:
    remedy = "Pass a list of (filename, content, mimetype) or MIME parts."
    if isinstance(attachments, str | bytes) or not isinstance(attachments, Sequence):
        raise InvalidMessage(f"attachments is {_kind(attachments)}. {remedy}")
    for number, item in enumerate(attachments):
        is_triple = isinstance(item, tuple | list) and len(item) in {2, 3}
        if not is_triple and not isinstance(item, MIMEPart):
            raise InvalidMessage(f"attachments[{number}] is {_kind(item)}. {remedy}")


def _kind(value: object) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"
