"""Every check's id and when it is given; the documentation is compared with it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

CHECKS: Mapping[str, str] = MappingProxyType(
    {
        "pillarbox.E001": "A value in PILLARBOX is not of the kind that its key wants.",
        "pillarbox.E002": "PILLARBOX has an unknown key.",
        "pillarbox.E003": 'PILLARBOX["ENGINE"] is no engine.',
        "pillarbox.E004": "A stream has a name that cannot be used.",
        "pillarbox.E005": "A stream names a mailer twice.",
        "pillarbox.E006": "A stream has a rate that cannot be read.",
        "pillarbox.E007": 'PILLARBOX["ATTACHMENTS"]["storage"] is not in STORAGES.',
        "pillarbox.E008": "DEFAULT_FROM_EMAIL is not an address.",
        "pillarbox.E009": 'PILLARBOX["REDIRECT_TO"] holds something that is not an address.',
        "pillarbox.E010": "The default mail backend queues, and nothing is named that delivers.",
        "pillarbox.E011": "A mailer that is to deliver would queue again.",
        "pillarbox.E012": "A stream or a queueing backend names a mailer that is not defined.",
        "pillarbox.E013": 'Both MAILERS and PILLARBOX["MAILERS"] are set.',
        "pillarbox.E014": "The stream default and a queueing backend name different mailers.",
        "pillarbox.E015": "A mailer cannot be made: its BACKEND or its OPTIONS are wrong.",
        "pillarbox.E016": "The engine cannot be loaded, since its library is not installed.",
        "pillarbox.E017": "USE_TZ is False.",
        "pillarbox.E018": "The database of the messages sets a TIME_ZONE.",
        "pillarbox.E020": 'PILLARBOX["ENGINE_OPTIONS"] has an unknown key.',
        "pillarbox.E021": "The engine's time-out would kill a worker in mid-conversation.",
        "pillarbox.E022": "The engine django_q2 is chosen, and django_q is not installed.",
        "pillarbox.E023": "The engine django_q2 is chosen, and Q_CLUSTER is not set.",
        "pillarbox.E024": 'Q_CLUSTER["retry"] is shorter than a drain runs.',
        "pillarbox.E025": "The engine celery is chosen, and Celery knows no broker.",
        "pillarbox.W001": "SQLite without write-ahead logging (asked of the database).",
        "pillarbox.W002": "SQLite without transactions that are IMMEDIATE.",
        "pillarbox.W003": "DEFAULT_FROM_EMAIL is an address of localhost.",
        "pillarbox.W004": 'PILLARBOX["RETENTION"] deletes rows before their content is erased.',
        "pillarbox.W005": 'PILLARBOX["MAILERS"]["default"] queues, and EMAIL_BACKEND does not.',
        "pillarbox.W020": 'Q_CLUSTER["sync"] is set.',
        "pillarbox.W021": "Celery's task_always_eager is set.",
        "pillarbox.I001": "Mail about errors is queued, and rolls back with what failed.",
    }
)
