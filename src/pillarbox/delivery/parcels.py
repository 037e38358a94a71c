"""Makes a claimed row into a parcel: content decoded, recipients still to be served."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from django.core.mail import EmailMessage
from django.db import DatabaseError, InterfaceError

from pillarbox import codec
from pillarbox.addresses import bare
from pillarbox.attachments import BlobReader
from pillarbox.codec.shapes import Envelope
from pillarbox.conf import get_settings
from pillarbox.delivery.senders.base import Parcel
from pillarbox.models import Message, Recipient, RecipientState

logger = logging.getLogger("pillarbox.delivery")

FIELDS = ("to", "cc", "bcc")


def address(message: Message) -> Parcel:
    """Make the parcel of a claimed message: its mailer is known, its content not yet read."""
    return Parcel(message=message, mailer=message.mailer)


def is_whole(parcel: Parcel) -> bool:
    """Whether its content is all in its row, so that to read it asks the database nothing."""
    return not parcel.message.attempts and codec.is_plain(parcel.message.content)


def fill(parcels: Sequence[Parcel], using: str) -> dict[Parcel, Exception]:
    """Read the content into each parcel; return those that cannot be read, with the reason.

    Raise what the database raises; those read by then stay read.
    One query for the recipients of all that were tried before, and one for each attachment.
    """
    served = _served([parcel.message.pk for parcel in parcels if parcel.message.attempts], using)
    unreadable: dict[Parcel, Exception] = {}
    reader, redirect = BlobReader(using), get_settings().redirect_to
    for parcel in parcels:
        try:
            _fill(parcel, reader, served.get(parcel.message.pk) if served else None, redirect)
        except (DatabaseError, InterfaceError):
            raise  # it is the database that is at fault, and no message
        except Exception as error:  # noqa: BLE001 - the unreadable one fails alone
            unreadable[parcel] = error
    return unreadable


def read_at_once(parcels: Sequence[Parcel], using: str) -> None:
    """Read those that go by a free connection before it asks for them, where that can be.

    What cannot be read is found out when it is asked for. A redirection is logged then, too, once
    a server is there to take the mail.
    """
    if not get_settings().redirect_to:
        fill([parcel for parcel in parcels if is_whole(parcel)], using)


def _served(pks: list[int], using: str) -> dict[int, dict[str, RecipientState]]:
    served: dict[int, dict[str, RecipientState]] = {}
    if pks:
        rows = Recipient.objects.using(using).filter(message_id__in=pks)
        for pk, mailbox, state in rows.values_list("message_id", "address", "state"):
            served.setdefault(pk, {})[mailbox] = RecipientState(state)
    return served


def _fill(
    parcel: Parcel,
    reader: BlobReader,
    served: dict[str, RecipientState] | None,
    redirect: Sequence[str],
) -> None:
    email = codec.decode(parcel.message.content, reader)
    done: set[str] = set()
    if served:
        done = _take_up(parcel, served)
    else:
        # A worker that died at the first attempt has left no recipients' rows.
        parcel.some_in_doubt = parcel.message.resends > 0
    parcel.kinds, parcel.envelope = _recipients(email, done)
    if redirect:
        _redirect(parcel, email, list(redirect))
    elif done and not isinstance(email, codec.RawMessage):
        _keep_headers(email, done)
    if isinstance(email, Envelope) and (redirect or done):
        # A backend of others asks the message for its envelope, which is not in its fields.
        email._recipients = list(parcel.envelope)
    parcel.email = email  # last: it says that the parcel is read


def _take_up(parcel: Parcel, served: dict[str, RecipientState]) -> set[str]:
    """Note what earlier attempts made of the recipients; return those for whom nothing is left."""
    parcel.has_rows = True
    states = set(served.values())
    parcel.some_sent = RecipientState.SENT in states
    parcel.some_failed = RecipientState.FAILED in states
    parcel.some_in_doubt = RecipientState.IN_DOUBT in states
    final = {RecipientState.SENT, RecipientState.FAILED}
    return {mailbox for mailbox, state in served.items() if state in final}


def _recipients(email: EmailMessage, done: set[str]) -> tuple[dict[str, str], list[str]]:
    if not (email.cc or email.bcc or done or isinstance(email, Envelope)):
        mailboxes = [str(mailbox) for mailbox in email.to if mailbox]
        return dict.fromkeys(map(bare, mailboxes), "to"), mailboxes
    fields: dict[str, str] = {}
    for name in FIELDS:
        for mailbox in getattr(email, name):
            fields.setdefault(bare(mailbox), name)
    kinds, envelope = {}, []
    for mailbox in email.recipients():
        if (address := bare(mailbox)) not in done:
            kinds[address] = fields.get(address, "to")
            envelope.append(str(mailbox))
    return kinds, envelope


def _keep_headers(email: EmailMessage, done: set[str]) -> None:
    """Leave out who was served, for backends that take the envelope from the fields.

    The headers still show everybody, as they did to the first recipients.
    """
    headers = {name.lower() for name in email.extra_headers}
    for name, header in (("to", "To"), ("cc", "Cc")):
        everybody = [str(mailbox) for mailbox in getattr(email, name)]
        if everybody and header.lower() not in headers:
            email.extra_headers[header] = ", ".join(everybody)
    for name in FIELDS:
        setattr(email, name, [m for m in getattr(email, name) if bare(m) not in done])


def _redirect(parcel: Parcel, email: EmailMessage, to: list[str]) -> None:
    """Send to the staging address instead, and log who would have had it."""
    meant = list(parcel.envelope)
    logger.info(
        "Message %d is redirected from %s to %s.",
        parcel.message.pk,
        ", ".join(meant),
        ", ".join(to),
        extra={"message_pk": parcel.message.pk, "real_recipients": meant},
    )
    email.to, email.cc, email.bcc = to, [], []
    for name in [name for name in email.extra_headers if name.lower() in {"to", "cc"}]:
        del email.extra_headers[name]
    parcel.envelope = to
