"""Bare INSERTs of the same bytes: what the database can do for whoever queues."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from benchmarks.mail import SENDER, Mail
from benchmarks.subjects.base import Subject

_TABLE = """CREATE TABLE mail (id bigserial PRIMARY KEY, due timestamptz NOT NULL DEFAULT now(),
    state smallint NOT NULL DEFAULT 0, recipient text NOT NULL, content text NOT NULL);
    CREATE INDEX ON mail (due) WHERE state = 0"""
_INSERT = "INSERT INTO mail (recipient, content) VALUES (%s, %s)"


def _row(mail: Mail) -> tuple[str, str]:
    content: dict[str, Any] = {"subject": mail.subject, "body": mail.text, "html": mail.html}
    return mail.recipient, json.dumps({**content, "from": SENDER, "to": [mail.recipient]})


class BareSql(Subject):
    """One INSERT through Django's cursor; many by COPY."""

    name, title = "bare_sql", "bare INSERT, COPY"
    setup = "one table with one index; `cursor.execute` and commit; in bulk `COPY`"
    cases = ("enqueue",)

    def prepare(self) -> None:
        """Make the table."""
        from django.db import connection

        with connection.cursor() as cursor:
            cursor.execute(_TABLE)

    def enqueue(self, mail: Mail) -> None:
        """Insert one and commit."""
        from django.db import connection

        with connection.cursor() as cursor:
            cursor.execute(_INSERT, _row(mail))

    def enqueue_bulk(self, mails: Sequence[Mail]) -> None:
        """Copy all and commit."""
        from django.db import connection

        with (
            connection.cursor() as cursor,
            cursor.cursor.copy("COPY mail (recipient, content) FROM STDIN") as copy,
        ):
            for mail in mails:
                copy.write_row(_row(mail))


SUBJECTS = (BareSql(),)
