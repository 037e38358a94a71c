"""The drop-in backend honours Django's contract, by MAILERS on 6.1, by EMAIL_BACKEND before."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.core import mail
from django.core.mail import EmailMessage, EmailMultiAlternatives, mail_admins, send_mail
from django.core.mail import send_mass_mail as django_send_mass_mail
from django.core.mail.backends.base import BaseEmailBackend
from django.db import transaction
from django.test import Client
from django.urls import include, path
from django.utils.log import AdminEmailHandler

from pillarbox import compat, testing
from pillarbox.backends.queue import EmailBackend
from pillarbox.conf import QUEUE_BACKEND
from pillarbox.exceptions import IdempotencyConflict, InvalidMessage
from pillarbox.models import Message, Priority
from tests.support.transactions import rolled_back

urlpatterns = [path("admin/", admin.site.urls), path("", include("django.contrib.auth.urls"))]

ADA = ["ada@example.org"]
# Where Django reads MAILERS a test gets the mailers that it writes; else all of ours are locmem.
DELIVERING = compat.LOCMEM_BACKEND if compat.HAS_MAILERS else "pillarbox.backends.smtp.EmailBackend"
MAILERS = {
    "default": {"BACKEND": QUEUE_BACKEND, "OPTIONS": {"using": "smtp"}},
    "bulk": {"BACKEND": QUEUE_BACKEND, "OPTIONS": {"using": "ses"}},
    "smtp": {"BACKEND": DELIVERING},
    "ses": {"BACKEND": DELIVERING},
}


@pytest.fixture(autouse=True)
def _queueing(settings: Any) -> None:
    """As the documentation says; in a test it takes the place of the runner's locmem."""
    engine = {"ENGINE": "worker", "STREAMS": {"news": {}}}
    if compat.HAS_MAILERS:
        settings.MAILERS, settings.PILLARBOX = MAILERS, engine
    else:
        settings.EMAIL_BACKEND, settings.PILLARBOX = QUEUE_BACKEND, engine | {"MAILERS": MAILERS}


def backend(**options: Any) -> BaseEmailBackend:
    """The default mailer with these options, as Django makes it."""
    return compat.build_backend("default", QUEUE_BACKEND, {"using": "smtp", **options})


def default_backend() -> BaseEmailBackend:
    return compat.open_present_backend()


@pytest.mark.django_db
class TestDjangosCalls:
    def test_send_mail_queues_and_counts(self) -> None:
        assert send_mail("s", "b", None, ADA, html_message="<p>Hi") == 1
        assert mail.outbox == []
        message = Message.objects.get()
        assert message.from_email == "Shop <shop@example.org>"
        assert testing.deliver() == {"sent": 1}
        (sent,) = mail.outbox
        assert isinstance(sent, EmailMultiAlternatives)
        assert sent.alternatives[0][0] == "<p>Hi"

    def test_send_mass_mail_counts_all(self) -> None:
        data = [("1", "b", None, ADA), ("2", "b", None, ADA)]
        assert django_send_mass_mail(data) == 2
        assert Message.objects.count() == 2

    def test_a_message_sends_itself(self) -> None:
        assert EmailMessage("s", "b", to=ADA).send() == 1
        testing.assert_queued(to=ADA, count=1)

    def test_a_message_without_recipients_is_none(self) -> None:
        assert EmailMessage("s", "b").send() == 0
        assert default_backend().send_messages([EmailMessage("s", "b")]) == 0
        assert default_backend().send_messages([]) == 0
        assert not Message.objects.exists()

    def test_mail_to_the_admins_is_queued(self, settings: Any) -> None:
        # A list of pairs until 6.0, which wants addresses.
        settings.ADMINS = (
            ["ops@example.org"] if compat.MODERN_MESSAGES else [("O", "ops@example.org")]
        )
        mail_admins("disk", "full")
        testing.assert_queued(to="ops@example.org", subject="[Django] disk", count=1)

    def test_an_error_log_record_is_mailed_to_the_admins(self, settings: Any) -> None:
        settings.ADMINS = (
            ["ops@example.org"] if compat.MODERN_MESSAGES else [("O", "ops@example.org")]
        )
        handler = AdminEmailHandler(include_html=True)
        handler.emit(logging.LogRecord("shop", logging.ERROR, "a.py", 1, "Oh no", (), None))
        testing.assert_queued(subject="[Django] ERROR: Oh no", count=1)
        assert testing.deliver() == {"sent": 1}

    @pytest.mark.urls(__name__)
    def test_a_password_reset_goes_through_the_queue(self, client: Client) -> None:
        get_user_model().objects.create_user("ada", "ada@example.org", "old")
        assert client.post("/password_reset/", {"email": "ada@example.org"}).status_code == 302
        assert mail.outbox == []
        testing.assert_queued(to="ada@example.org", count=1)
        assert testing.deliver() == {"sent": 1}
        found = re.search(r"/reset/\S+/\S+/", str(mail.outbox[0].body))
        assert found is not None
        assert client.get(found[0], follow=True).status_code == 200

    def test_an_open_connection_queues_too(self) -> None:
        with default_backend() as connection:
            assert connection.send_messages([EmailMessage("s", "b", to=ADA)] * 2) == 2
        assert Message.objects.count() == 2


@pytest.mark.django_db
class TestOptions:
    def test_using_names_the_mailer_that_delivers(self) -> None:
        send_mail("s", "b", None, ADA)
        with testing.ScriptedMailer() as mailer:
            assert testing.deliver() == {"sent": 1}
        assert mailer.conversations[0].mailer == "smtp"

    def test_a_message_s_own_options_ride_on_it(self) -> None:
        email = EmailMessage("s", "b", to=ADA)
        email.pillarbox = {"stream": "news", "priority": "low", "idempotency_key": "k"}  # type: ignore[attr-defined]
        assert email.send() == 1
        assert email.send() == 1
        message = Message.objects.get()
        assert (message.stream, message.priority) == ("news", Priority.LOW)

    def test_a_wrong_option_on_a_message_is_refused(self) -> None:
        email = EmailMessage("s", "b", to=ADA)
        email.pillarbox = {"steam": "news"}  # type: ignore[attr-defined]
        with pytest.raises(InvalidMessage, match="Did you mean 'stream'"):
            email.send()

    def test_it_sends_in_the_caller_s_transaction(self) -> None:
        with rolled_back():
            send_mail("s", "b", None, ADA)
        assert not Message.objects.exists()


@pytest.mark.django_db
class TestFailSilently:
    def bad(self) -> EmailMessage:
        return EmailMessage("one\ntwo", "b", to=ADA)

    def test_it_raises_at_the_first_and_keeps_those_before_it(self) -> None:
        emails = [EmailMessage("1", "b", to=ADA), self.bad(), EmailMessage("3", "b", to=ADA)]
        with pytest.raises(ValueError, match=r"[Hh]eader"):
            backend().send_messages(emails)
        assert [message.subject for message in Message.objects.all()] == ["1"]

    def test_silently_it_leaves_the_bad_one_out_of_the_count(self) -> None:
        emails = [EmailMessage("1", "b", to=ADA), self.bad(), EmailMessage("3", "b", to=ADA)]
        assert backend(fail_silently=True).send_messages(emails) == 2
        assert Message.objects.count() == 2

    def test_a_conflict_of_keys_is_silent_too(self) -> None:
        first, second = EmailMessage("1", "b", to=ADA), EmailMessage("2", "b", to=ADA)
        for email in (first, second):
            email.pillarbox = {"idempotency_key": "k"}  # type: ignore[attr-defined]
        assert backend(fail_silently=True).send_messages([first, second]) == 1
        with pytest.raises(IdempotencyConflict):
            backend().send_messages([second])

    def test_a_database_that_refuses_does_not_break_the_caller_s_transaction(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Message._meta, "db_table", "not_migrated")
            with transaction.atomic():
                assert (
                    backend(fail_silently=True).send_messages([EmailMessage("s", "b", to=ADA)]) == 0
                )
                get_user_model().objects.create_user("ada")
        assert get_user_model().objects.exists()

    def test_django_s_own_argument_reaches_it(self) -> None:
        if compat.HAS_MAILERS:  # where it is an option of the mailer
            connection: Any = mail.mailers["default"]
            assert connection.fail_silently is False
            return
        assert send_mail("one\ntwo", "b", None, ADA, fail_silently=True) == 0
        connection = mail.get_connection(fail_silently=True)
        assert connection.fail_silently is True


if compat.HAS_MAILERS:

    @pytest.mark.django_db
    class TestMailers:
        """Django 6.1 and newer."""

        def test_a_mailer_knows_its_alias(self) -> None:
            made: Any = mail.mailers["bulk"]
            assert isinstance(made, EmailBackend)
            assert (vars(made)["alias"], made.using) == ("bulk", "ses")

        def test_a_call_chooses_among_the_queueing_mailers(self) -> None:
            assert send_mail("s", "b", None, ADA, using="bulk") == 1
            assert Message.objects.get().using == "ses"

        def test_an_unknown_option_is_refused_as_django_refuses_it(self, settings: Any) -> None:
            options = {"using": "smtp", "speed": 9}
            settings.MAILERS = MAILERS | {"default": {"BACKEND": QUEUE_BACKEND, "OPTIONS": options}}
            with pytest.raises(mail.InvalidMailer, match="Unknown options 'speed'"):
                send_mail("s", "b", None, ADA)

        def test_fail_silently_is_an_option(self, settings: Any) -> None:
            options = {"using": "smtp", "fail_silently": True}
            settings.MAILERS = MAILERS | {"default": {"BACKEND": QUEUE_BACKEND, "OPTIONS": options}}
            assert send_mail("one\ntwo", "b", None, ADA) == 0

else:

    @pytest.mark.django_db
    class TestEmailBackend:
        """Django 5.2 and 6.0."""

        def test_a_connection_of_the_caller_s_own_passes_the_queue_by(self) -> None:
            direct = mail.get_connection(compat.LOCMEM_BACKEND)
            assert send_mail("s", "b", None, ADA, connection=direct) == 1
            assert len(mail.outbox) == 1
            assert not Message.objects.exists()

        def test_an_account_in_the_call_is_of_no_use_and_no_harm(self) -> None:
            assert send_mail("s", "b", None, ADA, auth_user="u", auth_password="p") == 1

        def test_the_backend_takes_fail_silently_by_place_as_django_s_does(self) -> None:
            assert EmailBackend(True).fail_silently is True
