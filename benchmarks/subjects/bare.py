"""Bare loops, which queue nothing: what the wire and Django's own code can do."""

from __future__ import annotations

import os
import smtplib
import time
from pathlib import Path

from benchmarks.mail import SENDER, mails
from benchmarks.place import Place, child
from benchmarks.subjects.base import Subject

READY = 200
"""How many different mails are composed beforehand: enough, and little memory."""


class Bare(Subject):
    """So many processes with one connection each."""

    queues = False
    cases = ("drain",)

    def __init__(self, processes: int = 1) -> None:
        self.processes = processes

    def start_together(self, place: Place) -> None:
        """Wait until all the processes are ready: a short loop would be over before the next."""
        Path(place.folder, f"ready-{os.getpid()}").touch()
        while len(list(Path(place.folder).glob("ready-*"))) < self.processes:
            time.sleep(0.002)

    def commands(self, place: Place, count: int) -> list[list[str]]:
        """Share the mails out."""
        share = count // self.processes
        return [child("send", "--count", str(share))] * self.processes


class Smtplib(Bare):
    """``smtplib`` with bytes that were ready before."""

    remote_mails = 200

    def __init__(self, processes: int) -> None:
        super().__init__(processes)
        self.drain_mails = 12_000 * processes
        self.name = "smtplib" if processes == 1 else f"smtplib_{processes}"
        self.title = f"bare smtplib, {processes} process" + ("es" if processes > 1 else "")
        self.setup = f"{processes} × `smtplib.SMTP.sendmail` with ready bytes on one connection"

    def send(self, count: int) -> None:
        """Compose some, then send them again and again."""
        place = Place.from_environment()
        ready = [(mail.recipient, mail.email().message().as_bytes()) for mail in mails(READY)]
        with smtplib.SMTP("127.0.0.1", place.smtp_port, timeout=60) as server:
            if place.certificate:
                import ssl

                server.starttls(context=ssl.create_default_context())
                options = place.smtp_options()
                server.login(options["username"], options["password"])
            self.start_together(place)
            for number in range(count):
                recipient, body = ready[number % READY]
                server.sendmail(SENDER, [recipient], body)


class DjangoLoop(Bare):
    """Django builds and sends one after the other on one connection."""

    name, title = "django_loop", "bare Django loop"
    setup = "`message.send()` on one open connection, one process"
    drain_mails = 1500
    remote_mails = 200

    def send(self, count: int) -> None:
        """Open a connection once and send all through it."""
        from django.core.mail import get_connection

        with get_connection() as connection:
            for mail in mails(count):
                connection.send_messages([mail.email()])


SUBJECTS = (Smtplib(1), Smtplib(2), DjangoLoop())
