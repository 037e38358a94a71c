"""Whatever is asked of many messages by their state goes by an index, however many are finished."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.core.mail import EmailMessage
from django.db import connection
from django.utils import timezone

from pillarbox import retention, send_emails
from pillarbox.console import status
from pillarbox.console.operations import OPERATIONS, Operation
from pillarbox.delivery import recovery
from pillarbox.management.selection import select
from pillarbox.models import FINISHED, UNFINISHED, Message, State, in_states
from tests.support.vendors import only_on_postgresql

pytestmark = pytest.mark.django_db(transaction=True)

SEQ_SCAN = re.compile(r"Seq Scan on pillarbox_message\b")


def found(*states: State) -> list[Message]:
    return list(Message.objects.filter(in_states(states)).order_by("finished_at")[:1000])


def chosen(operation: Operation) -> list[list[Message]]:
    """Return what ``manage.py pillarbox VERB --all`` takes."""
    options = {"ids": [], "all": True, "stream": "", "to": "", "state": ""}
    return list(select(options, operation, "default").batches())


@only_on_postgresql("its planner is asked")
@pytest.mark.parametrize(
    "ask",
    [
        lambda: status.read("default"),
        lambda: recovery.recover("default"),
        lambda: list(retention.prune("default")),
        *(partial(chosen, operation) for operation in OPERATIONS),
        *(partial(found, state) for state in sorted(set(State) - {State.SENT})),
    ],
)
def test_no_question_about_the_few_reads_the_many_that_are_sent(ask: Callable[[], Any]) -> None:
    send_emails(EmailMessage(str(n), "", to=["ada@example.org"]) for n in range(4000))
    sent = Message.objects.filter(pk__gt=Message.objects.order_by("pk")[20].pk)
    sent.update(state=State.SENT, finished_at=timezone.now() - timedelta(days=2))
    with connection.cursor() as cursor:
        cursor.execute(f"ANALYZE {Message._meta.db_table}")
    plans: list[str] = []

    def explain(execute: Any, sql: str, values: Any, *rest: Any) -> Any:
        if sql.startswith("SELECT") and Message._meta.db_table in sql:
            execute(f"EXPLAIN {sql}", values, *rest)
            plans.append("\n".join(line for (line,) in rest[-1]["cursor"].cursor.fetchall()))
        return execute(sql, values, *rest)

    with connection.execute_wrapper(explain):
        ask()
    assert plans
    assert not [plan for plan in plans if SEQ_SCAN.search(plan)]


def test_states_are_found_alike_in_whatever_words() -> None:
    send_emails(EmailMessage(str(n), "", to=["ada@example.org"]) for n in range(len(State)))
    for message, state in zip(Message.objects.all(), State, strict=True):
        Message.objects.filter(pk=message.pk).update(state=state)
    for states in (UNFINISHED, FINISHED, {State.QUEUED}, {State.SENT}, set(State), set()):
        assert sorted(message.state for message in found(*states)) == sorted(states)
