"""From a message's attributes to the bytes on the wire, without a MIME object in between.

`compose` writes the shapes that real mail has and returns None for any other, which Django's own
``message()`` then renders. Both renderings parse to the same structure, headers, parameters and
decoded content; the transfer encoding may differ, as it does between Django's own versions.

The bytes have CRLF line ends, no line over 998 octets (RFC 5322 section 2.1.1) and no dots doubled:
that is the sender's work.
"""

from pillarbox.mime.compose import compose

__all__ = ["compose"]
