"""`EmailMessage` ⇄ `Message.content`: lossless, versioned, checked at the call; no queries.

A message is carried as its attributes and rendered by the worker, whatever its mailer. One whose
class writes its own MIME is carried as the bytes it writes, for SMTP mailers. What a row cannot
hold is refused by name.
"""

from pillarbox.codec.common import Letter
from pillarbox.codec.decoding import attachment_ids, decode, is_plain, message_id
from pillarbox.codec.encoding import VERSION, encode, has_blobs, header_date
from pillarbox.codec.fingerprints import fingerprint
from pillarbox.codec.letters import encode_letter, letter_of, written
from pillarbox.codec.shapes import RawMessage, renders_itself
from pillarbox.codec.validation import check

__all__ = [
    "VERSION",
    "Letter",
    "RawMessage",
    "attachment_ids",
    "check",
    "decode",
    "encode",
    "encode_letter",
    "fingerprint",
    "has_blobs",
    "header_date",
    "is_plain",
    "letter_of",
    "message_id",
    "renders_itself",
    "written",
]
