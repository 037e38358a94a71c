"""The signatures in the links that are mailed: who has the link has the mailbox."""

from __future__ import annotations

from datetime import timedelta

from django.core.signing import Signer, TimestampSigner

CONFIRM_WITHIN = timedelta(days=3)

confirm = TimestampSigner(salt="shop.confirm")
unsubscribe = Signer(salt="shop.unsubscribe")
