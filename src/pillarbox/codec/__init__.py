"""`EmailMessage` ⇄ `Message.content`: lossless, versioned, checked at the call; no queries.

A message is carried as its attributes and rendered by the worker, whatever its mailer. One whose
class writes its own MIME is carried as the bytes it writes, for SMTP mailers. What a row cannot
hold is refused by name.
"""

from pillarbox.codec.decoding import attachment_ids, decode, message_id
from pillarbox.codec.encoding import VERSION, encode, encode_inert, has_blobs
from pillarbox.codec.fingerprints import fingerprint
from pillarbox.codec.shapes import RawMessage, renders_itself
from pillarbox.codec.validation import check

__all__ = [
    "VERSION",
    "RawMessage",
    "attachment_ids",
    "check",
    "decode",
    "encode",
    "encode_inert",
    "fingerprint",
    "has_blobs",
    "message_id",
    "renders_itself",
]
