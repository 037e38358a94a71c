"""One log record an attempt: each its own, whatever makes a project's records."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from pillarbox import send_email
from pillarbox.delivery.drain import drain
from pillarbox.engines.worker import Engine as Worker
from pillarbox.models import Message
from tests.support.mailers import delivering_to
from tests.support.scripted_smtp import Say, ScriptedServer, Step

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> Iterator[list[logging.LogRecord]]:
    """Collect the records of attempts, and mark each as handlers do."""
    caplog.set_level(logging.INFO, logger="pillarbox.delivery")
    seen: list[logging.LogRecord] = []

    class Marking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if hasattr(record, "message_pk"):
                assert not hasattr(record, "was_seen")
                record.was_seen = True
                seen.append(record)

    handler = Marking()
    logging.getLogger("pillarbox").addHandler(handler)
    yield seen
    logging.getLogger("pillarbox").removeHandler(handler)


def _deliver(count: int) -> None:
    for number in range(count):
        send_email(str(number), "", [f"reader-{number}@example.org"])
    refusing = {Step.RCPT: {"reader-1@example.org": Say("550 5.1.1 Nobody here")}}
    with ScriptedServer(refusing) as server, delivering_to(server):
        drain(engine=Worker({}))


def test_each_attempt_has_a_record_of_its_own(records: list[logging.LogRecord]) -> None:
    _deliver(5)
    assert len(records) == 5
    by_key = {vars(record)["message_pk"]: record for record in records}
    for message in Message.objects.all():
        record = by_key[message.pk]
        details: dict[str, Any] = vars(record)
        assert details["message_id"] == message.message_id
        assert details["state"] == message.state
        assert record.levelname == ("WARNING" if message.state == "failed" else "INFO")
        assert record.getMessage().startswith(f"Message {message.pk}: {details['result']} by ")
        assert record.funcName == "_log"
        assert record.filename == "report.py"
        assert message.finished_at is not None
        assert abs(record.created - message.finished_at.timestamp()) < 5
    assert sorted(vars(record)["state"] for record in records) == ["failed", *["sent"] * 4]


def test_a_projects_own_factory_makes_each(records: list[logging.LogRecord]) -> None:
    numbers, usual = itertools.count(), logging.getLogRecordFactory()

    def numbered(*arguments: Any, **more: Any) -> logging.LogRecord:
        record = usual(*arguments, **more)
        vars(record)["number"] = next(numbers)
        return record

    logging.setLogRecordFactory(numbered)
    try:
        _deliver(4)
    finally:
        logging.setLogRecordFactory(usual)
    assert len({vars(record)["number"] for record in records}) == 4
