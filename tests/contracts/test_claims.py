"""Claims, leases and recovery keep their word on every database."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.mail import EmailMessage
from django.db import connection, connections, transaction
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from pillarbox import compat, send_email, send_emails
from pillarbox.delivery import claims, database, looks, parcels, recovery, ways
from pillarbox.delivery.leases import Lease
from pillarbox.delivery.ledger import Ledger
from pillarbox.delivery.ways import Way
from pillarbox.engines import get_engine
from pillarbox.engines.worker import Engine as Worker
from pillarbox.models import (
    Attempt,
    Circuit,
    DatabaseNow,
    Drain,
    Message,
    Pause,
    State,
    database_now,
)
from pillarbox.outbox import hold
from tests.support.vendors import only_on_postgresql

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = timedelta(hours=1)


@pytest.fixture
def lease() -> Lease:
    """A drain's row with a live lease."""
    made = Lease(Worker({}), "default")
    made.insert(slot=None)
    return made


def let_lapse(lease: Lease) -> None:
    Drain.objects.filter(pk=lease.id).update(lease_until=DatabaseNow(timedelta(seconds=-1)))


def claim(lease: Lease, *, limit: int = 100) -> list[Message]:
    return claims.claim(lease.id, "default", all_ways(), limit).messages


def all_ways() -> list[Way]:
    found = looks.survey("default")
    return ways.ways(claims.streams_to_serve(found), found.hints)


def in_threads(count: int, work: Callable[[], Any]) -> list[Any]:
    results: list[Any] = []
    start = threading.Barrier(count)

    def run() -> None:
        start.wait()
        try:
            results.append(work())
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == count
    return results


def test_a_claim_takes_the_due_by_priority_and_age(lease: Lease) -> None:
    sent = {
        name: send_email(name, "", ["ada@example.org"], priority=name)
        for name in ("low", "normal", "high")
    }
    later = send_email("later", "", ["ada@example.org"], send_at=timedelta(hours=1))

    first, second = claim(lease, limit=2)

    assert [first.pk, second.pk] == [sent["high"].pk, sent["normal"].pk]
    assert [message.pk for message in claim(lease)] == [sent["low"].pk]
    assert Message.objects.get(pk=later.pk).state == State.QUEUED


def test_a_claimed_message_is_the_drains_and_not_yet_begun(lease: Lease) -> None:
    send_email("s", "b", ["ada@example.org"])
    claim(lease)
    message = Message.objects.get()
    assert (message.state, message.drain, message.begun_at) == (State.SENDING, lease.id, None)


@only_on_postgresql("others let no transaction choose")
def test_a_claim_is_not_flushed_and_what_follows_it_is(lease: Lease) -> None:
    def is_left_unflushed() -> bool:
        send_email("s", "b", ["ada@example.org"])
        before = asked("SELECT pg_current_wal_flush_lsn()")
        assert claim(lease)
        after = asked("SELECT pg_current_wal_flush_lsn()")
        assert asked("SHOW synchronous_commit") == "on"
        return after == before

    def asked(sql: str) -> Any:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchone()[0]

    # Not each: the server's own writer comes by, and others that commit.
    assert any(is_left_unflushed() for _ in range(1000))


def test_many_claimers_at_once_never_share_a_message() -> None:
    for number in range(60):
        send_email(str(number), "", ["ada@example.org"])

    def work() -> list[int]:
        mine = Lease(Worker({}), "default")
        mine.insert(slot=None)
        taken: list[int] = []
        while found := claim(mine, limit=5):
            taken += [message.pk for message in found]
        return taken

    taken = [pk for mine in in_threads(4, work) for pk in mine]

    assert len(taken) == len(set(taken))
    # SKIP LOCKED may let a claimer see nothing for a moment; whoever comes next finds the rest.
    left = Message.objects.filter(state=State.QUEUED).count()
    assert len(taken) + left == 60


def test_a_second_claimer_gets_other_rows_while_the_first_holds_its_own(lease: Lease) -> None:
    if not connection.features.has_select_for_update_skip_locked:
        pytest.skip("SQLite locks no rows: a writer locks out all others")
    for number in range(4):
        send_email(str(number), "", ["ada@example.org"])
    other = Lease(Worker({}), "default")
    other.insert(slot=None)
    with transaction.atomic():
        rows = Message.objects.filter(state=State.QUEUED, stream="default", priority=2)
        held = list(rows.select_for_update().order_by("due_at", "id")[:2])
        (found,) = in_threads(1, lambda: [message.pk for message in claim(other)])
        assert len(found) == 2
        assert set(found).isdisjoint(message.pk for message in held)


@only_on_postgresql("its planner is asked")
@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
def test_no_plan_of_a_claim_from_a_long_queue_reads_the_table_through(
    lease: Lease, mode: str
) -> None:
    send_emails(EmailMessage(str(n), "", to=["ada@example.org"]) for n in range(3000))
    plans: list[str] = []

    def explain(execute: Any, sql: str, values: Any, *rest: Any) -> Any:
        if "EXECUTE" in sql:
            execute(f"EXPLAIN {_alone(sql)}", values, *rest)
            plan = "\n".join(line for (line,) in rest[-1]["cursor"].cursor.fetchall())
            plans.extend([plan] if "CTE claimed" in plan else [])
        return execute(sql, values, *rest)

    with connection.cursor() as cursor:
        cursor.execute(f"ANALYZE {Message._meta.db_table}")
        cursor.execute(f"SET plan_cache_mode = {mode}")
    assert len(claim(lease, limit=1)) == 1  # prepared is what comes a second time
    try:
        with connection.execute_wrapper(explain):
            assert len(claim(lease)) == 100
    finally:
        connection.close()
    (plan,) = plans
    assert "LockRows" in plan
    assert "Seq Scan on pillarbox_message" not in plan


def _alone(sql: str) -> str:
    """Return an EXECUTE without the setting before it."""
    return sql.rpartition("; ")[2] if sql.startswith("SET LOCAL") else sql


@only_on_postgresql("others do not tell what they read")
@pytest.mark.parametrize(
    ("learned", "state"),
    [(State.QUEUED, State.QUEUED), (State.QUEUED, State.SENT), (State.SENT, State.SENT)],
)
def test_a_look_reads_a_few_blocks_however_many_messages_there_are(
    learned: State, state: State
) -> None:
    send_emails(EmailMessage(str(n), "", to=["ada@example.org"]) for n in range(3000))
    if learned != State.QUEUED:
        Message.objects.update(state=learned)
    everything = all_ways()
    with connection.cursor() as cursor:
        cursor.execute(f"ANALYZE {Message._meta.db_table}")  # it learns that all are alike
    Message.objects.update(state=state)
    blocks: list[int] = []

    def explain(execute: Any, sql: str, values: Any, *rest: Any) -> Any:
        if not _alone(sql).startswith(("SELECT", "EXECUTE")) or "pg_relation_size" in sql:
            return execute(sql, values, *rest)
        execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {_alone(sql)}", values, *rest)
        ((plans,),) = rest[-1]["cursor"].cursor.fetchall()
        plan = (json.loads(plans) if isinstance(plans, str) else plans)[0]["Plan"]
        blocks.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
        return execute(sql, values, *rest)

    for _ in range(20):  # the first one marks the index's dead entries, once no snapshot has them
        blocks.clear()
        with connection.execute_wrapper(explain):
            assert bool(looks.due_ways("default", everything)) == (state == State.QUEUED)
            found = ["default"] if state == State.QUEUED else []
            assert looks.survey("default") == looks.Survey(found, [], set(), set())
            assert not looks.are_any_dead("default")
        if max(blocks) < 40:
            break
        time.sleep(0.1)
    assert max(blocks) < 40


def test_a_survey_finds_every_stream_hint_pause_and_unwell_mailer() -> None:
    for number, stream in enumerate(["b", "a", "d", "c", "e"]):
        send_email("s", "b", ["ada@example.org"])
        Message.objects.filter(stream="default").update(stream=stream, using=f"h{number % 3}")
    send_email("s", "b", ["ada@example.org"])
    Message.objects.filter(stream="e").update(state=State.SENT)
    Pause.objects.create(stream="c")
    Pause.objects.create(stream="empty")
    Circuit.objects.create(mailer="well")
    Circuit.objects.create(mailer="down", state=Circuit.State.OPEN)
    Circuit.objects.create(mailer="stopped", paused=True)
    found = looks.survey("default")
    assert found.unwell == {"down", "stopped"}
    assert found.streams == ["a", "b", "c", "d", "default"]
    assert found.hints == ["h0", "h1", "h2"]
    assert found.paused == {"c", "empty"}


def test_a_claim_without_a_live_lease_takes_nothing(lease: Lease) -> None:
    send_email("s", "b", ["ada@example.org"])
    let_lapse(lease)
    with pytest.raises(claims.LeaseLost):
        claim(lease)
    assert Message.objects.get().state == State.QUEUED


def test_an_expired_message_is_not_sent(lease: Lease) -> None:
    message = send_email("s", "b", ["ada@example.org"], expires_at=timedelta(seconds=30))
    Message.objects.update(expires_at=DatabaseNow(timedelta(seconds=-1)))
    assert claim(lease) == []
    message.refresh_from_db()
    assert message.state == State.EXPIRED
    assert message.finished_at is not None


def test_what_is_found_expired_holds_nothing_else_up(lease: Lease) -> None:
    for name in ("old", "new"):
        for priority in ("high", "low"):
            send_email(name, "", ["ada@example.org"], priority=priority, expires_at=HOUR)
    Message.objects.filter(subject="old").update(expires_at=DatabaseNow(-HOUR))
    batches = [claims.claim(lease.id, "default", all_ways(), 2) for _ in range(2)]
    claimed = [message.subject for batch in batches for message in batch.messages]
    expired = [message for batch in batches for message in batch.expired]
    assert claimed == ["new", "new"]
    assert [(one.subject, one.state) for one in expired] == [("old", State.EXPIRED)] * 2


@override_settings(PILLARBOX={"STREAMS": {"bulk": {}, "news": {}}})
def test_a_paused_stream_is_left_alone_and_the_others_are_served(lease: Lease) -> None:
    send_email("s", "b", ["ada@example.org"], stream="bulk")
    other = send_email("s", "b", ["ada@example.org"], stream="news")
    Pause.objects.create(stream="bulk")
    assert [message.pk for message in claim(lease)] == [other.pk]
    Pause.objects.all().delete()
    assert len(claim(lease)) == 1


def test_rows_of_a_stream_that_has_left_the_settings_are_served_with_one_warning(
    lease: Lease, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "_warned_about", set())
    with override_settings(PILLARBOX={"STREAMS": {"gone": {}}}):
        for _ in range(2):
            send_email("s", "b", ["ada@example.org"], stream="gone")
    assert [message.stream for message in claim(lease, limit=1)] == ["gone"]
    assert [message.stream for message in claim(lease)] == ["gone"]
    assert caplog.text.count("'gone' has left the settings") == 1


def test_an_empty_look_writes_nothing() -> None:
    with CaptureQueriesContext(connection) as queries:
        assert looks.due_ways("default", all_ways()) == []
        assert recovery.recover("default") == []
    statements = [query["sql"].split()[0] for query in queries]
    assert set(statements) <= {"SELECT", "BEGIN", "COMMIT", "BEGIN;", "COMMIT;"}, statements


def test_what_a_dead_drain_had_not_begun_is_queued_again(lease: Lease) -> None:
    send_email("s", "b", ["ada@example.org"])
    claim(lease)
    let_lapse(lease)
    assert recovery.recover("default") == []
    message = Message.objects.get()
    assert (message.state, message.drain, message.attempts) == (State.QUEUED, None, 0)
    assert not Drain.objects.exists()


@pytest.mark.parametrize("is_row_there", [True, False])
def test_recovery_by_one_connection_finds_each_that_dies(is_row_there: bool) -> None:
    for _ in range(3):  # its look is prepared after the first time
        message = send_email("s", "b", ["ada@example.org"])
        drain = Lease(Worker({}), "default")
        drain.insert(slot=None)
        assert [mine.pk for mine in claim(drain)] == [message.pk]
        with CaptureQueriesContext(connection) as queries:
            assert recovery.recover("default") == []
        assert "UPDATE" not in "".join(query["sql"] for query in queries)
        let_lapse(drain) if is_row_there else drain.drop()
        assert recovery.recover("default") == []
        assert Message.objects.get().state == State.QUEUED
        Message.objects.all().delete()


def test_a_live_drain_keeps_what_it_holds(lease: Lease) -> None:
    send_email("s", "b", ["ada@example.org"])
    claim(lease)
    recovery.recover("default")
    assert Message.objects.get().state == State.SENDING


def begun(lease: Lease) -> Message:
    claim(lease)
    Message.objects.update(begun_at=database_now("default"))
    return Message.objects.get()


def test_what_a_dead_drain_had_begun_is_in_doubt_under_hold(lease: Lease) -> None:
    send_email("s", "b", ["ada@example.org"], in_doubt="hold")
    before = begun(lease)
    let_lapse(lease)

    (doubtful,) = recovery.recover("default")

    message = Message.objects.get()
    assert doubtful.pk == message.pk
    assert message.state == State.IN_DOUBT
    assert (message.drain, message.begun_at) == (lease.id, before.begun_at)
    attempt = message.trail.get()
    assert (attempt.result, attempt.stage) == (Attempt.Result.IN_DOUBT, "unknown")


def test_what_expires_while_it_waits_for_its_resend_is_in_doubt(lease: Lease) -> None:
    send_email("s", "b", ["ada@example.org"], in_doubt="resend", expires_at=timedelta(minutes=5))
    before = begun(lease)
    let_lapse(lease)
    recovery.recover("default")
    past = DatabaseNow(timedelta(seconds=-1))
    Message.objects.update(due_at=past, expires_at=past)
    other = Lease(Worker({}), "default")
    other.insert(slot=None)
    assert claim(other) == []
    message = Message.objects.get()
    assert (message.state, message.drain) == (State.IN_DOUBT, lease.id)
    assert message.begun_at == before.begun_at


def test_what_a_dead_drain_had_begun_is_sent_again_once_under_resend(lease: Lease) -> None:
    send_email("s", "b", ["ada@example.org"], in_doubt="resend")
    begun(lease)
    let_lapse(lease)
    recovery.recover("default")
    message = Message.objects.get()
    assert (message.state, message.resends) == (State.QUEUED, 1)
    assert message.due_at > datetime.now(UTC) + timedelta(seconds=20)
    assert message.drain == lease.id

    # It dies a second time: now a person must decide.
    Message.objects.update(due_at=DatabaseNow())
    second = Lease(Worker({}), "default")
    second.insert(slot=None)
    begun(second)
    let_lapse(second)
    recovery.recover("default")
    assert Message.objects.get().state == State.IN_DOUBT


def test_a_message_given_back_is_due_again_at_once(lease: Lease) -> None:
    send_email("s", "b", ["ada@example.org"])
    assert claims.give_back(lease.id, "default", claim(lease)) == 0
    assert len(claim(lease)) == 1


def test_what_a_verb_took_away_is_not_given_back(lease: Lease) -> None:
    send_email("s", "b", ["ada@example.org"])
    taken = claim(lease)
    hold(taken[0])
    claims.give_back(lease.id, "default", taken)
    assert Message.objects.get().state == State.HELD


@override_settings(PILLARBOX={"MAX_DRAINS": 2})
def test_no_more_drains_than_slots_and_the_wake_is_handed_over() -> None:
    leases = [Lease(get_engine(), "default") for _ in range(3)]
    assert leases[0].take()
    assert leases[1].take()
    before = Drain.objects.values_list("stay_until", flat=True)
    latest = max(before)
    assert not leases[2].take()
    assert Drain.objects.count() == 2
    assert all(until > latest for until in Drain.objects.values_list("stay_until", flat=True))


def test_an_idle_drain_is_handed_the_wake_though_slots_are_free() -> None:
    first, second = Lease(get_engine(), "default"), Lease(get_engine(), "default")
    assert first.take()
    first.mark_idle()
    assert not second.take()


def test_a_drain_that_was_told_to_stay_does_not_leave() -> None:
    first, second = Lease(get_engine(), "default"), Lease(get_engine(), "default")
    assert first.take()
    first.mark_idle()
    looked_at = database_now("default")
    assert not second.take()
    assert not first.try_leave(looked_at)
    Drain.objects.update(stay_until=DatabaseNow())
    assert first.try_leave(database_now("default") + timedelta(milliseconds=2))


@override_settings(PILLARBOX={"MAX_DRAINS": 1})
def test_a_closing_drain_frees_its_slot_and_takes_no_wake() -> None:
    first, second = Lease(get_engine(), "default"), Lease(get_engine(), "default")
    assert first.take()
    first.close()
    assert second.take()
    assert Drain.objects.get(pk=first.id).closing


@override_settings(PILLARBOX={"MAX_DRAINS": 3})
def test_starting_drains_at_once_never_share_a_slot() -> None:
    taken = in_threads(8, lambda: Lease(get_engine(), "default").take())
    slots = list(Drain.objects.values_list("slot", flat=True))
    assert sum(taken) == len(slots) == len(set(slots)) <= 3


def test_a_lease_that_ran_out_is_lost_and_says_so(lease: Lease) -> None:
    let_lapse(lease)
    lease.renewed(-1000.0)
    with pytest.raises(claims.LeaseLost):
        lease.beat()
    assert not lease.is_fresh


def test_a_deadlock_is_tried_again() -> None:
    if connection.vendor == "sqlite":
        with pytest.raises(ZeroDivisionError):
            database.run("default", lambda: 1 // 0)
        return
    rows = [send_email(str(n), "", ["ada@example.org"]) for n in range(2)]
    meet = threading.Barrier(2, timeout=5)
    tries: list[int] = []

    def cross(first: Message, second: Message) -> Callable[[], None]:
        def work() -> None:
            tries.append(1)
            Message.objects.filter(pk=first.pk).update(attempts=1)
            if len(tries) <= 2:
                meet.wait()
            Message.objects.filter(pk=second.pk).update(attempts=1)

        return lambda: database.run("default", work)

    jobs = [cross(rows[0], rows[1]), cross(rows[1], rows[0])]
    in_threads(2, lambda: jobs.pop()())
    assert len(tries) >= 3  # one loses, perhaps more than once
    assert list(Message.objects.values_list("attempts", flat=True)) == [1, 1]


def test_the_drain_row_is_a_heartbeat_with_host_and_process(lease: Lease) -> None:
    row = Drain.objects.get(pk=lease.id)
    assert row.pid > 0
    assert row.engine == "worker"
    assert row.lease_until - row.started_at == claims.LEASE
    assert isinstance(row.id, uuid.UUID)


TWO_MAILERS = {
    "smtp": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"},
    "backup": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"},
    "default": {
        "BACKEND": "pillarbox.backends.queue.EmailBackend",
        "OPTIONS": {"using": "smtp"},
    },
}


def with_mailers(mailers: dict[str, Any], **pillarbox: Any) -> Any:
    if compat.HAS_MAILERS:
        return override_settings(MAILERS=mailers, PILLARBOX=pillarbox)
    return override_settings(PILLARBOX={**pillarbox, "MAILERS": mailers})


def test_each_message_is_claimed_for_the_mailer_of_its_way(lease: Lease) -> None:
    with with_mailers(TWO_MAILERS):
        for hint in ("smtp", "backup", "gone", ""):
            message = send_email(hint or "none", "", ["ada@example.org"])
            Message.objects.filter(pk=message.pk).update(using=hint)
        mailers = {message.subject: message.mailer for message in claim(lease)}
    assert mailers == {"smtp": "smtp", "backup": "backup", "gone": "smtp", "none": "smtp"}


def test_mail_whose_only_mailer_carries_nothing_is_left_and_the_other_is_claimed(
    lease: Lease,
) -> None:
    with with_mailers(TWO_MAILERS):
        for hint in ("backup", ""):
            message = send_email(hint or "none", "", ["ada@example.org"])
            Message.objects.filter(pk=message.pk).update(using=hint)
        left = ways.without(all_ways(), {"backup"})
        claimed = claims.claim(lease.id, "default", left, 10).messages
        assert [message.subject for message in claimed] == ["none"]
        assert looks.due_ways("default", left) == []
        assert looks.due_ways("default", all_ways())


def test_a_way_goes_on_by_its_next_mailer(lease: Lease) -> None:
    streams = {"default": {"mailers": ["smtp", "backup"]}}
    with with_mailers(TWO_MAILERS, STREAMS=streams):
        send_email("s", "", ["ada@example.org"])
        left = ways.without(all_ways(), {"smtp"})
        (message,) = claims.claim(lease.id, "default", left, 10).messages
        assert ways.without(all_ways(), {"smtp", "backup"}) == []
    assert message.mailer == "backup"


def test_a_way_with_a_limit_of_its_own_takes_no_more_than_that(lease: Lease) -> None:
    for number in range(5):
        send_email(str(number), "", ["ada@example.org"], priority="high" if number % 2 else "low")
    limited = [dataclasses.replace(way, limit=3) for way in all_ways()]
    assert len(claims.claim(lease.id, "default", limited, 10).messages) == 3


def test_recovery_names_the_mailer_of_the_begun_conversation(lease: Lease) -> None:
    send_email("s", "b", ["ada@example.org"], in_doubt="hold")
    (message,) = claim(lease)
    parcel = parcels.address(message)
    Ledger(lease.id, "default").commit([parcel], [])
    let_lapse(lease)
    recovery.recover("default")
    message.refresh_from_db()
    assert (message.state, message.mailer) == (State.IN_DOUBT, "default")
    assert message.trail.get().mailer == "default"
