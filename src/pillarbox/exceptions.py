"""Every error that Pillarbox raises; it owns the tree and imports nothing.

PillarboxError
├── InvalidMessage (ValueError)      the call's argument is wrong: names it and the remedy
│   ├── Uncarriable                  an attribute or attachment that a row cannot hold
│   └── AttachmentTooLarge
├── AttachmentUnavailable (OSError)  a storage does not give it now; the worker tries again
├── IdempotencyConflict              the same key, another content
├── InvalidTransition                a verb on a message whose state forbids it
└── MailerNotFound (LookupError)     an alias that the settings do not know

Settings errors are Django's ``ImproperlyConfigured``.
"""


class PillarboxError(Exception):
    """Base of all errors of this package."""


class InvalidMessage(PillarboxError, ValueError):
    """Raised at the call when a message could not be delivered as given."""


class Uncarriable(InvalidMessage):
    """Raised at the call when a message holds what the queue cannot carry without loss."""


class AttachmentTooLarge(InvalidMessage):
    """Raised at the call when the attachments exceed ``PILLARBOX["ATTACHMENTS"]["limit"]``."""


class AttachmentUnavailable(PillarboxError, OSError):
    """Raised in the worker when a storage fails to give an attachment; the message is retried."""


class IdempotencyConflict(PillarboxError):
    """Raised when an idempotency key is taken by another content, or by a row out of sight."""


class InvalidTransition(PillarboxError):
    """Raised by a verb of ``pillarbox.outbox`` that the message's state does not allow."""


class MailerNotFound(PillarboxError, LookupError):
    """Raised when a stream or a message names a mailer that the settings do not define."""
