"""django-post_office: ``manage.py send_queued_mail``, which cron starts; nothing of it waits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.mail import SENDER, Mail
from benchmarks.place import Place, manage
from benchmarks.subjects.base import Subject


class PostOffice(Subject):
    """In one process by its defaults, or in two with the batch and threads that were best."""

    packages = ("django-post_office",)
    # Several batches: what it writes down after the last one is not counted.
    drain_mails = 2500
    remote_mails = 2000

    def __init__(self, processes: int, batch: int, threads: int) -> None:
        self.processes, self.batch, self.threads = processes, batch, threads
        self.cases = ("enqueue", "drain") if processes == 1 else ("drain",)
        self.name = "post_office" if processes == 1 else f"post_office_{processes}"
        self.title = f"post_office, {processes} process" + ("es" if processes > 1 else "")
        self.setup = (
            f"`send_queued_mail --processes {processes}`, BATCH_SIZE {batch}, "
            f"THREADS_PER_PROCESS {threads}, where connections are given their share"
        )

    def settings(self, place: Place) -> dict[str, Any]:
        """Set the batch and the threads."""
        threads = place.connections // self.processes or self.threads
        own = {"BATCH_SIZE": self.batch, "THREADS_PER_PROCESS": threads}
        return {"INSTALLED_APPS": ["post_office"], "POST_OFFICE": own}

    def commands(self, place: Place, count: int) -> list[list[str]]:
        """Run what cron would."""
        lock = str(Path(place.folder) / "post_office.lock")
        return [manage("send_queued_mail", "-p", str(self.processes), "-L", lock)]

    def enqueue(self, mail: Mail) -> None:
        """Call ``mail.send``."""
        from post_office import mail as post_office

        post_office.send(**_arguments(mail))

    def enqueue_bulk(self, mails: Sequence[Mail]) -> None:
        """Call ``mail.send_many``."""
        from post_office import mail as post_office

        post_office.send_many([_arguments(mail) for mail in mails])


def _arguments(mail: Mail) -> dict[str, Any]:
    return {
        "recipients": [mail.recipient],
        "sender": SENDER,
        "subject": mail.subject,
        "message": mail.text,
        "html_message": mail.html,
    }


SUBJECTS = (PostOffice(1, batch=100, threads=5), PostOffice(2, batch=500, threads=5))
