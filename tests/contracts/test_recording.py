"""A plain group commit goes by SQL written by hand, under the same guards as any other."""

from __future__ import annotations

import time
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from django.core.mail import EmailMessage
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from pillarbox import send_email, send_emails
from pillarbox.delivery import binding, prepared, recording
from pillarbox.delivery.groups import Entry
from pillarbox.delivery.outcomes import Outcome, Reply, Retry, Sent, Stage
from pillarbox.delivery.senders.base import Parcel, Result
from pillarbox.models import Attempt, DatabaseNow, Message, Recipient, State
from pillarbox.outbox import hold
from tests.contracts.test_ledger import Desk
from tests.support.transactions import in_thread, row_locked
from tests.support.vendors import only_on_postgresql

pytestmark = pytest.mark.django_db(transaction=True)

SAID = Reply(250, "2.1.5", "NULL")
SENT = Sent(reply=Reply(250, "2.0.0", 'queued as "7", \\ and ⊙'), stage=Stage.DOT)


on_postgresql = only_on_postgresql("only PostgreSQL's statements are prepared")


class Unseen(Desk):
    """A desk at which nobody captures the queries: their parameters go by Bind."""


@pytest.fixture(params=[Desk, pytest.param(Unseen, marks=on_postgresql)])
def desk(request: pytest.FixtureRequest) -> Desk:
    desk: Desk = request.param()
    if connection.vendor == "mysql":
        pytest.skip("for MariaDB there is no such SQL")
    # What a connection does once: the clock is read, a statement prepared at its second time.
    desk.ledger.commit([], [])
    for _ in range(2):
        use_each_statement(desk)
    return desk


def use_each_statement(desk: Desk) -> None:
    """Begin alone, begin beside a result, and record alone."""
    first, second = claimed(desk, 2)
    desk.ledger.commit([first], [])
    desk.ledger.commit([second], [Result(first, SENT)])
    desk.ledger.commit([], [Result(second, SENT)])


def claimed(desk: Desk, count: int) -> list[Parcel]:
    parcels = []
    for number in range(count):
        send_email("s", "b", [f"ada-{number}@example.org", "bob@example.org"])
        parcels.append(desk.claim())
    return parcels


def carried(
    desk: Desk, begins: list[Parcel], answered: list[Parcel], *, alone: bool = True
) -> Entry:
    """Commit a group and see that it went by hand, ``alone`` or with judgement after it."""
    results = [Result(parcel, SENT, took_s=0.25) for parcel in answered]
    if isinstance(desk, Unseen):
        with mock.patch.object(binding, "_run_together", wraps=binding._run_together) as run:
            entry = desk.ledger.commit(begins, results)
        assert run.called
        return entry
    with CaptureQueriesContext(connection) as queries:
        entry = desk.ledger.commit(begins, results)
    assert by_hand(queries)
    if alone and connection.vendor == "postgresql":
        assert len(queries) == 1
    elif alone:
        assert not any("SELECT" in query["sql"] for query in queries)
    return entry


def by_hand(queries: CaptureQueriesContext) -> bool:
    marks = ("EXECUTE pillarbox_", "times: \nUPDATE")
    return any(mark in query["sql"] for query in queries for mark in marks)


def test_results_and_begins_are_one_statement(desk: Desk) -> None:
    first, second = claimed(desk, 2), claimed(desk, 2)
    carried(desk, first, [])
    entry = carried(desk, second, first)
    assert entry.begun == second
    assert [result.parcel for result, _ in entry.settled] == first

    message = Message.objects.get(pk=first[0].message.pk)
    assert (message.state, message.attempts, message.mailer) == (State.SENT, 1, "default")
    assert (message.drain, message.begun_at) == (None, None)
    assert message.finished_at == first[0].message.finished_at
    attempt = Attempt.objects.get(message=message)
    assert (attempt.drain, attempt.result, attempt.stage) == (desk.lease.id, "sent", "dot")
    assert (attempt.code, attempt.enhanced_code, attempt.took_ms) == (250, "2.0.0", 250)
    assert attempt.reply == SENT.reply.text
    rows = Recipient.objects.filter(message=message).order_by("address")
    assert [(row.address, row.kind, row.state, row.code) for row in rows] == [
        ("ada-0@example.org", "to", "sent", 250),
        ("bob@example.org", "to", "sent", 250),
    ]
    row = Message.objects.get(pk=second[0].message.pk)
    assert (row.state, row.drain, row.begun_at) == (
        State.SENDING,
        desk.lease.id,
        second[0].message.begun_at,
    )


def test_nothing_is_begun_before_all_results_are_recorded(desk: Desk) -> None:
    sent, gone, following = claimed(desk, 3)
    carried(desk, [sent, gone], [])
    Message.objects.filter(pk=gone.message.pk).update(drain=Desk().lease.id)
    begun: list[bool] = []
    real = recording.record_and_begin

    def record_and_begin(*args: Any) -> Any:
        keys = real(*args)
        begun.append(Message.objects.get(pk=following.message.pk).begun_at is not None)
        return keys

    with mock.patch.object(recording, "record_and_begin", record_and_begin):
        entry = carried(desk, [following], [sent, gone], alone=False)
    assert begun == [False]
    assert [result.parcel for result, _ in entry.settled] == [sent]
    assert [result.parcel for result in entry.refused] == [gone]
    assert entry.begun == [following]
    assert Attempt.objects.filter(message=gone.message).count() == 0


def test_a_result_of_an_older_begin_is_not_written(desk: Desk) -> None:
    (parcel,) = claimed(desk, 1)
    carried(desk, [parcel], [])
    Message.objects.update(begun_at=DatabaseNow(timedelta(seconds=1)))
    entry = carried(desk, [], [parcel], alone=False)
    assert [result.parcel for result in entry.refused] == [parcel]
    assert Message.objects.get(pk=parcel.message.pk).state == State.SENDING


def test_a_begin_that_is_locked_or_lost_is_judged_and_the_others_begin(desk: Desk) -> None:
    if not connection.features.has_select_for_update_skip_locked:
        pytest.skip("SQLite locks no rows: a writer locks out all others")
    free, locked, lost = claimed(desk, 3)
    hold(lost.message)
    with row_locked(locked.message.pk):
        entry = carried(desk, [free, locked, lost], [], alone=False)
    assert (entry.begun, entry.locked, entry.lost) == ([free], [locked], [lost])
    assert locked.begins_tried == lost.begins_tried == []


def test_a_result_waits_for_a_row_that_somebody_has_locked(desk: Desk) -> None:
    if not connection.features.has_select_for_update:
        pytest.skip("SQLite locks no rows: a writer locks out all others")
    (parcel,) = claimed(desk, 1)
    carried(desk, [parcel], [])
    entries: list[Entry] = []
    with row_locked(parcel.message.pk):
        waiting = in_thread(lambda: entries.append(desk.ledger.commit([], [Result(parcel, SENT)])))
        waiting.join(0.3)
        assert entries == []
    waiting.join(10)
    assert [result.parcel for result, _ in entries[0].settled] == [parcel]
    assert Message.objects.get(pk=parcel.message.pk).state == State.SENT


def test_a_servers_words_are_kept_as_they_are(desk: Desk) -> None:
    said = 'a "b" \\" {c,d} NULL \n tab\t, é ☂'
    (parcel,) = claimed(desk, 1)
    carried(desk, [parcel], [])
    sent = Sent(
        reply=Reply(None, "", said), stage=Stage.SEND, recipients={"ada-0@example.org": SAID}
    )
    desk.ledger.commit([], [Result(parcel, sent)])
    attempt = Attempt.objects.get(message=parcel.message)
    assert (attempt.reply, attempt.code, attempt.stage) == (said, None, "send")
    rows = Recipient.objects.filter(message=parcel.message).order_by("address")
    assert [(row.code, row.reply) for row in rows] == [(250, SAID.text), (None, said)]


@pytest.mark.parametrize(
    "outcome", [Retry(reply=Reply(451, "4.3.0", "later")), SENT], ids=["retry", "sensitive"]
)
def test_what_is_not_plain_goes_the_long_way(desk: Desk, outcome: Outcome) -> None:
    send_email("s", "b", ["ada@example.org"], sensitive=outcome is SENT)
    parcel, following = desk.claim(), *claimed(desk, 1)
    carried(desk, [parcel], [])
    with CaptureQueriesContext(connection) as queries:
        entry = desk.ledger.commit([following], [Result(parcel, outcome)])
    assert not by_hand(queries)
    assert [result.parcel for result, _ in entry.settled] == [parcel]
    assert entry.begun == [following]


@on_postgresql
def test_a_statement_that_the_server_has_forgotten_is_prepared_again(desk: Desk) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DEALLOCATE ALL")
    (parcel,) = claimed(desk, 1)
    assert desk.begin(parcel)
    carried(desk, [], [parcel], alone=False)


@on_postgresql
def test_a_plan_is_made_anew_when_the_table_has_grown(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = time.monotonic()
    monkeypatch.setattr(prepared, "time", SimpleNamespace(monotonic=lambda: at))
    with connection.cursor() as cursor:
        cursor.execute("DEALLOCATE ALL")
    prepared._known.clear()
    looked, renewed = [], []
    for second in range(30):
        at += 1
        if second == 12:
            later = timezone.now() + timedelta(days=1)
            send_emails(
                (EmailMessage("s", "b", to=["ada@example.org"]) for _ in range(500)), send_at=later
            )
        with CaptureQueriesContext(connection) as queries:
            desk.ledger.commit(claimed(desk, 1), [])
        said = [query["sql"] for query in queries]
        looked += [second for sql in said if sql.startswith("SELECT pg_relation_size")]
        prepares = [sql for sql in said if sql.startswith("PREPARE")]
        renewed += [second for sql in prepares if "begun AS" in sql]
    assert looked == [1, 2, 4, 8, 16, 26]
    assert renewed == [1, 16]


@on_postgresql
def test_a_group_is_planned_once(desk: Desk) -> None:
    later = timezone.now() + timedelta(days=1)
    send_emails(
        (EmailMessage("s", "b", to=["ada@example.org"]) for _ in range(15_000)), send_at=later
    )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE pillarbox_message")
        cursor.execute("DEALLOCATE ALL")
    prepared._known.clear()
    for _ in range(8):
        use_each_statement(desk)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT custom_plans, generic_plans FROM pg_prepared_statements"
            " WHERE statement LIKE '%recorded AS%' OR statement LIKE '%begun AS%'"
        )
        assert cursor.fetchall() == [(0, 7)] * 3


@on_postgresql
def test_a_statement_that_another_client_has_prepared_is_used(desk: Desk) -> None:
    prepared._known.clear()
    first, second = claimed(desk, 2)
    desk.ledger.commit([first], [])  # as it is
    carried(desk, [second], [], alone=False)
    assert second.begun_at is not None


@on_postgresql
def test_where_the_server_binds_parameters_nothing_is_prepared(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**connection.settings_dict["OPTIONS"], "server_side_binding": True}
    connection.close()
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", options)
    try:
        first, second = claimed(desk, 1), claimed(desk, 1)
        desk.ledger.commit(first, [])
        entry = desk.ledger.commit(second, [Result(first[0], SENT)])
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_prepared_statements WHERE NOT from_sql")
    finally:
        connection.close()
    assert (entry.begun, len(entry.settled)) == (second, 1)


def test_it_is_not_run_within_a_transaction_that_may_be_rolled_back(desk: Desk) -> None:
    (parcel,) = claimed(desk, 1)
    with transaction.atomic(), pytest.raises(RuntimeError, match="durable"):
        desk.begin(parcel)
    assert Message.objects.get(pk=parcel.message.pk).begun_at is None
