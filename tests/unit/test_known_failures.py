"""What other packages of this kind were seen to get wrong, each as a test."""

from __future__ import annotations

from collections.abc import Iterator
from email.mime.base import MIMEBase
from typing import Any

import pytest
from django.core import mail

from pillarbox import compat, send_email, testing
from pillarbox.backends.smtp import EmailBackend as SMTPBackend
from pillarbox.delivery import routes
from pillarbox.models import Message, Recipient, State
from tests.support.smtp_sink import Sink, smtp_sink

ADA = ["ada@example.org"]


@pytest.fixture(autouse=True)
def _no_broker(settings: Any) -> None:
    settings.PILLARBOX = {"ENGINE": "worker"}


@pytest.fixture
def sink() -> Iterator[Sink]:
    """A real server that every mailer delivers to."""
    identity: dict[str, Any] = {"alias": "default"} if compat.HAS_MAILERS else {}
    with smtp_sink() as server:
        routes.override = lambda _: SMTPBackend(host=server.host, port=server.port, **identity)
        yield server
        routes.override = None


@pytest.mark.django_db
class TestWhatPeersGetWrong:
    """Each is a failure seen in another package."""

    def test_a_user_s_braces_arrive_untouched(self, sink: Sink) -> None:
        text = "{{ secret }} {% load x %} {# #} %s %(a)s {0} ${HOME} <%= 1 %>"
        send_email(text, text, ADA, html=f"<p>{text}</p>")
        assert testing.deliver() == {"sent": 1}
        parsed = sink.wait_for(1)[0].data.decode()
        assert f"Subject: {text}" in parsed.replace("\r\n ", " ")
        assert parsed.count("{{ secret }} {% load x %} {# #}") >= 2

    def test_of_two_recipients_each_has_its_own_fate(self, sink: Sink) -> None:
        sink.replies["bob@example.org"] = "550 5.1.1 No such user"
        message = send_email("s", "b", ["ada@example.org", "bob@example.org"])
        assert testing.deliver() == {"partly_sent": 1}
        ada, bob = Recipient.objects.filter(message=message).order_by("address")
        assert (ada.state, ada.code) == ("sent", 250)
        assert (bob.state, bob.code, bob.enhanced_code) == ("failed", 550, "5.1.1")
        assert bob.reply == "No such user"
        assert sink.wait_for(1)[0].rcpt_tos == ("ada@example.org",)
        message.refresh_from_db()
        assert message.state == State.PARTLY_SENT

    def test_an_unknown_exception_stops_nothing_but_its_own_message(self) -> None:
        class Unheard(Exception):
            pass

        with testing.ScriptedMailer() as mailer:
            mailer.sent().raises(Unheard("of"))
            sent = [send_email(str(n), "b", ADA) for n in range(3)]
            assert testing.deliver() == {"sent": 2, "retry": 1}
        states = [Message.objects.get(pk=message.pk).state for message in sent]
        assert states == [State.SENT, State.QUEUED, State.SENT]

    def test_a_content_that_cannot_be_read_fails_alone(self) -> None:
        bad = send_email("s", "b", ADA)
        Message.objects.filter(pk=bad.pk).update(content='{"v": 999}')
        send_email("s", "b", ADA)
        assert testing.deliver() == {"failed": 1, "sent": 1}

    def test_the_rotation_of_the_secret_key_loses_nothing(self, settings: Any) -> None:
        data = b"%PDF" * 999
        send_email("s", "b", ADA, attachments=[("a.pdf", data, "application/pdf")])
        settings.SECRET_KEY = "another"
        settings.SECRET_KEY_FALLBACKS = []
        assert testing.deliver() == {"sent": 1}
        assert mail.outbox[0].attachments[0][1] == data

    def test_same_named_attachments_and_mime_parts_all_arrive(self) -> None:
        calendar = MIMEBase("text", "calendar", method="REQUEST")
        calendar.set_payload("BEGIN:VCALENDAR")
        parts = [("a.txt", "one", "text/plain"), ("a.txt", "two", "text/plain")]
        if not compat.MODERN_MESSAGES:  # from 6.0 Django warns of it, and the caller gets to see it
            parts.append(calendar)  # type: ignore[arg-type]
        send_email("s", "b", ADA, attachments=parts)
        testing.deliver()
        assert [item[1] for item in mail.outbox[0].attachments[:2]] == ["one", "two"]
        assert len(mail.outbox[0].attachments) == len(parts)
