"""``manage.py pillarbox``: what each subcommand does, says and exits with."""

from __future__ import annotations

import gc
import io
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from django.core.management.base import OutputWrapper
from django.core.management.color import no_style
from django.db import DatabaseError
from pytest_django import Settings

import pillarbox.management.subcommands.worker as worker_module
from pillarbox import outbox, retention, send_email
from pillarbox.console import doubts, status
from pillarbox.delivery import recovery
from pillarbox.delivery.claims import LEASE
from pillarbox.delivery.outcomes import Stage
from pillarbox.management import logs, stopping, terminal
from pillarbox.management.subcommands import ALL
from pillarbox.models import FINISHED, Circuit, DatabaseNow, Drain, Message, Pause, State
from pillarbox.testing import ScriptedMailer, freeze
from tests.support.mailers import delivering_to
from tests.support.scripted_smtp import ScriptedServer

pytestmark = pytest.mark.django_db

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run() -> Run:
    """Return a function that runs a subcommand and gives its exit code and stdout."""

    def run(*arguments: str, **options: Any) -> tuple[int, str]:
        out = io.StringIO()
        try:
            call_command("pillarbox", *arguments, stdout=out, stderr=io.StringIO(), **options)
        except SystemExit as end:
            return int(end.code or 0), out.getvalue()
        return 0, out.getvalue()

    return run


def usage_error(run: Run, *arguments: str) -> str:
    """Return what a wrong use is told; its exit code is 2."""
    with pytest.raises(CommandError) as caught:
        run(*arguments)
    assert caught.value.returncode == 2
    return str(caught.value)


def queue(to: str = "ada@example.org", state: State = State.QUEUED, **options: Any) -> Message:
    """Queue a mail and put its row into a state."""
    message = send_email("Hello", "It gets there.", [to], **options)
    finished_at = datetime.now(UTC) if state in FINISHED else None
    Message.objects.filter(pk=message.pk).update(state=state, finished_at=finished_at)
    message.refresh_from_db()
    return message


def add_drain(**changes: Any) -> Drain:
    """Write the row of a drain that renewed its lease just now."""
    given: dict[str, Any] = {
        "host": "mail-1",
        "pid": 4711,
        "engine": "celery",
        "started_at": DatabaseNow(-timedelta(minutes=3)),
        "lease_until": DatabaseNow(LEASE),
        "stay_until": DatabaseNow(),
    }
    return Drain.objects.create(**{**given, **changes})


# The command itself.


def test_every_subcommand_documents_itself_and_its_exit_codes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for subcommand in ALL:
        with pytest.raises(SystemExit) as end:
            call_command("pillarbox", subcommand.name, "--help")
        assert end.value.code == 0
        text = " ".join(capsys.readouterr().out.split())
        assert subcommand.help.split(".")[0] in text
        assert "Exit codes: 0: all well" in text
        assert "--json" in text


def test_djangos_own_options_may_stand_after_the_subcommand(run: Run) -> None:
    code, text = run("status", "--no-color", "--traceback", "--verbosity", "2", "--skip-checks")
    assert code == 0
    assert "default" in text


def test_settings_that_are_wrong_stop_a_subcommand(run: Run, settings: Settings) -> None:
    settings.PILLARBOX = {"CONECTIONS": 4}
    with pytest.raises(CommandError, match="CONECTIONS"):
        run("status", skip_checks=False)
    with pytest.raises(CommandError, match="CONECTIONS"):
        run("status")


# status


def test_status_counts_by_stream_and_state(run: Run, settings: Settings) -> None:
    settings.PILLARBOX = {"STREAMS": {"bulk": {}}}
    queue()
    queue(send_at=timedelta(hours=1))
    queue(state=State.SENT, stream="bulk")
    queue(state=State.IN_DOUBT, stream="bulk")
    Pause.objects.create(stream="bulk")
    code, text = run("status", "--json")
    report = json.loads(text)
    default, bulk = report["streams"]
    assert code == 0
    assert (default["name"], default["counts"]["queued"], default["due"]) == ("default", 2, 1)
    assert (bulk["name"], bulk["is_paused"], bulk["counts"]["sent"]) == ("bulk", True, 1)
    assert report["in_doubt"] == 1


def test_status_shows_a_streams_rate(run: Run, settings: Settings) -> None:
    settings.PILLARBOX = {"STREAMS": {"bulk": {"rate": "500/min"}}}
    default, bulk = json.loads(run("status", "--json")[1])["streams"]
    assert (default["rate"], bulk["rate"]) == (None, "500/min")
    assert "bulk (at most 500/min)" in run("status")[1]


def test_status_shows_a_table_for_people(run: Run) -> None:
    queue()
    queue(state=State.IN_DOUBT)
    add_drain()
    _, text = run("status")
    lines = text.splitlines()
    assert " ".join(lines[0].split()) == "stream due oldest due queued sending held in doubt"
    assert lines[1].split()[:2] == ["default", "1"]
    assert "mail-1     4711  celery  working" in text
    assert "1 in doubt" in text


def test_status_leaves_out_what_finished_long_ago_unless_asked(run: Run) -> None:
    old = queue(state=State.SENT)
    Message.objects.filter(pk=old.pk).update(finished_at=DatabaseNow(-timedelta(days=2)))
    recent = json.loads(run("status", "--json")[1])
    whole = json.loads(run("status", "--json", "--all")[1])
    assert recent["streams"][0]["counts"]["sent"] == 0
    assert whole["streams"][0]["counts"]["sent"] == 1


def test_status_names_streams_that_have_left_the_settings(run: Run) -> None:
    message = queue()
    Message.objects.filter(pk=message.pk).update(stream="weekly")
    assert "weekly (not in the settings)" in run("status")[1]


def test_status_can_raise_an_alarm(run: Run) -> None:
    message = queue()
    Message.objects.filter(pk=message.pk).update(due_at=DatabaseNow(-timedelta(minutes=5)))
    assert run("status", "--max-wait", "600")[0] == 0
    assert run("status", "--max-wait", "60")[0] == 1


def test_a_paused_stream_raises_no_alarm(run: Run) -> None:
    message = queue()
    Message.objects.filter(pk=message.pk).update(due_at=DatabaseNow(-timedelta(minutes=5)))
    run("pause", "default")
    assert run("status", "--max-wait", "60")[0] == 0


def test_status_tells_what_each_worker_does() -> None:
    add_drain(host="a")
    add_drain(host="b", idle=True)
    add_drain(host="c", closing=True)
    add_drain(host="d", lease_until=DatabaseNow(-timedelta(seconds=5)))
    seen = status.workers("default")
    assert [it.doing for it in seen] == ["working", "idle", "closing", "gone"]
    assert [it.is_alive for it in seen] == [True, True, True, False]
    assert seen[0].heartbeat_age_s < 5
    assert 19 < seen[3].heartbeat_age_s < 25
    assert 170 < seen[0].running_s < 190


def test_status_asks_five_queries_and_the_clock(django_assert_num_queries: Any) -> None:
    queue()
    add_drain()
    # The clock, the pauses, two of messages, the circuits, the drains.
    with django_assert_num_queries(6):
        status.read("default")


# deliver, sweep, prune


def test_deliver_sends_what_is_due_and_says_how_much(run: Run, mailoutbox: list[Any]) -> None:
    queue()
    queue("bob@example.org")
    queue(send_at=timedelta(hours=1))
    code, text = run("deliver")
    assert code == 0
    assert "Delivered: 2 sent." in text
    assert len(mailoutbox) == 2


def test_deliver_takes_leave_of_the_mail_server(run: Run) -> None:
    queue()
    with ScriptedServer() as server, delivering_to(server):
        run("deliver")
        assert server.verbs[-1] == "QUIT"


def test_deliver_says_when_nothing_was_due(run: Run) -> None:
    assert run("deliver") == (0, "Delivered: nothing was due.\n")


def test_deliver_works_beside_drains_that_fill_every_slot(run: Run, settings: Settings) -> None:
    settings.PILLARBOX = {"MAX_DRAINS": 1}
    add_drain(slot=1)
    queue()
    assert json.loads(run("deliver", "--json")[1]) == {"sent": 1}


def test_deliver_exits_with_1_where_something_was_not_sent(run: Run) -> None:
    queue()
    with ScriptedMailer() as mailer:
        mailer.refuse()
        code, text = run("deliver")
    assert code == 1
    assert "1 failed" in text


def test_sweep_takes_back_what_a_dead_worker_held_and_delivers_it(
    run: Run, mailoutbox: list[Any]
) -> None:
    message = queue()
    Message.objects.filter(pk=message.pk).update(state=State.SENDING, drain=uuid4())
    code, text = run("sweep")
    assert (code, text) == (0, "Swept.\n")
    assert len(mailoutbox) == 1


def test_sweep_says_what_it_could_not_take_on(run: Run, settings: Settings) -> None:
    settings.PILLARBOX = {"MAX_DRAINS": 1}
    add_drain(slot=1)
    queue()
    assert "default: 1 still due." in run("sweep")[1]


def test_prune_erases_and_deletes_by_the_retention(run: Run) -> None:
    old, ancient, fresh = (queue(state=State.SENT) for _ in range(3))
    for message, days in ((old, 31), (ancient, 366)):
        finished_at = DatabaseNow(-timedelta(days=days))
        Message.objects.filter(pk=message.pk).update(finished_at=finished_at)
    code, text = run("prune", "--json")
    assert code == 0
    assert json.loads(text)["deleted"] == 1
    left = {row.pk: row.is_erased for row in Message.objects.all()}
    assert left == {old.pk: True, fresh.pk: False}
    assert run("prune")[1].startswith("Content erased: 0; messages deleted: 0;")


def test_prune_ends_though_more_grows_old_with_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 1)
    day = timedelta(days=1)
    with freeze() as clock:
        for days in (31, 30, 29, 28):  # the third and the fourth grow old meanwhile
            message = queue(state=State.SENT)
            finished_at = clock.now - days * day - timedelta(hours=1)
            Message.objects.filter(pk=message.pk).update(finished_at=finished_at)
        erased = 0
        for done in retention.prune("default"):
            erased = done.erased
            clock.move(day)
        assert erased == 2
        assert [*retention.prune("default")][-1].erased == 2


# retry, cancel, hold, release


def state_of(message: Message) -> str:
    """Return the state that the row has now."""
    return str(Message.objects.get(pk=message.pk).state)


@pytest.mark.parametrize(
    ("verb", "before", "after"),
    [
        ("retry", State.FAILED, State.QUEUED),
        ("cancel", State.QUEUED, State.CANCELLED),
        ("hold", State.QUEUED, State.HELD),
        ("release", State.HELD, State.QUEUED),
    ],
)
def test_a_verb_turns_the_messages_named(run: Run, verb: str, before: State, after: State) -> None:
    message, other = queue(state=before), queue(state=before)
    code, text = run(verb, str(message.pk))
    assert code == 0
    assert text.startswith("1 ")
    assert (state_of(message), state_of(other)) == (after, before)


def test_a_refusal_is_reported_and_stops_no_other(run: Run) -> None:
    sent, waiting = queue(state=State.SENT), queue()
    code, text = run("cancel", str(sent.pk), str(waiting.pk), "999999")
    assert code == 1
    assert f"Cannot cancel message {sent.pk}: it is sent." in text
    assert "Cannot cancel message 999999: its row is gone." in text
    assert "1 cancelled, 2 refused." in text
    report = json.loads(run("cancel", str(sent.pk), "--json")[1])
    assert (report["turned"], len(report["refused"])) == (0, 1)


def test_a_long_list_of_refusals_is_cut_for_people(run: Run) -> None:
    code, text = run("release", *map(str, range(900_000, 900_030)))
    assert code == 1
    assert text.count("its row is gone") == 20
    assert "… and 10 more." in text


def test_filters_choose_among_those_that_the_verb_can_turn(run: Run, settings: Settings) -> None:
    settings.PILLARBOX = {"STREAMS": {"bulk": {}}}
    bulk, default = queue(stream="bulk"), queue()
    sent = queue(stream="bulk", state=State.SENT)
    assert run("hold", "--stream", "bulk") == (0, "1 held, 0 refused.\n")
    assert [state_of(it) for it in (bulk, default, sent)] == ["held", "queued", "sent"]


def test_a_filter_by_state_narrows(run: Run) -> None:
    held, waiting = queue(state=State.HELD), queue()
    run("cancel", "--state", "held")
    assert [state_of(it) for it in (held, waiting)] == ["cancelled", "queued"]


def test_a_filter_by_address_finds_every_recipient_that_was_tried(run: Run) -> None:
    first = queue("Ada <Ada@Example.org>", state=State.FAILED)
    second = queue("bob@example.org", state=State.FAILED)
    third = queue("eve@example.org", state=State.FAILED)
    second.recipients.create(
        address="ada@example.org", state="failed", updated_at=datetime.now(UTC)
    )
    run("retry", "--to", "Ada@example.org")
    assert [state_of(it) for it in (first, second, third)] == ["queued", "queued", "failed"]


def test_numbers_and_filters_together_narrow(run: Run) -> None:
    ada, bob = queue("ada@example.org"), queue("bob@example.org")
    assert run("cancel", str(ada.pk), str(bob.pk), "--to", "ada@example.org")[0] == 0
    assert [state_of(it) for it in (ada, bob)] == ["cancelled", "queued"]


def test_all_leaves_out_what_is_erased(run: Run) -> None:
    kept, erased = queue(state=State.FAILED), queue(state=State.FAILED)
    Message.objects.filter(pk=erased.pk).update(content="")
    assert run("retry", "--all", "--no-input") == (0, "1 queued again, 0 refused.\n")
    assert [state_of(it) for it in (kept, erased)] == ["queued", "failed"]


def test_many_are_turned_in_batches(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pillarbox.management.selection.BATCH", 2)
    for _ in range(5):
        queue()
    assert run("hold", "--all", "--no-input") == (0, "5 held, 0 refused.\n")


@pytest.mark.parametrize(("answer", "after"), [("y", "cancelled"), ("n", "queued")])
def test_all_asks_first(run: Run, monkeypatch: pytest.MonkeyPatch, answer: str, after: str) -> None:
    message = queue()
    asked: list[str] = []

    def ask(text: str) -> str:
        asked.append(text)
        return answer

    monkeypatch.setattr("pillarbox.management.subcommands.verbs.is_interactive", lambda: True)
    monkeypatch.setattr("builtins.input", ask)
    if answer == "n":
        with pytest.raises(CommandError, match="Nothing is done"):
            run("cancel", "--all")
    else:
        run("cancel", "--all")
    assert asked == ["Cancel 1 messages? [y/N] "]
    assert state_of(message) == after


def test_all_without_a_terminal_is_refused(run: Run) -> None:
    message = queue()
    assert "--no-input" in usage_error(run, "cancel", "--all")
    assert state_of(message) == "queued"


@pytest.mark.parametrize("arguments", [(), ("--no-input",), ("1", "--all")])
def test_a_verb_needs_to_be_told_which_messages(run: Run, arguments: tuple[str, ...]) -> None:
    assert "Say which messages" in usage_error(run, "cancel", *arguments)


# doubts, resolve


def test_doubts_lists_what_to_look_for_in_the_servers_log(run: Run) -> None:
    message = queue(state=State.IN_DOUBT)
    queue()
    code, text = run("doubts")
    assert code == 0
    assert str(message.pk) in text
    assert message.message_id in text
    assert "1 in doubt." in text
    assert [row["pk"] for row in json.loads(run("doubts", "--json")[1])] == [message.pk]


def test_doubts_says_what_is_known_of_each(run: Run) -> None:
    with ScriptedMailer() as mailer:
        mailer.time_out_after_dot()
        message = send_email("s", "b", ["ada@example.org"], in_doubt="hold", stream="default")
        run("deliver")
    outbox.hold(message)
    text = " ".join(run("doubts")[1].split())
    assert f"{message.pk} {message.message_id}" in text
    assert "stream default, policy hold, held by a person" in text
    assert "mailer default, server scripted.invalid:25" in text
    assert "how far: the whole message was written, the final dot too" in text
    assert "cause: SMTPServerDisconnected" in text
    (row,) = json.loads(run("doubts", "--json")[1])
    assert row["pk"] == message.pk
    assert (row["state"], row["policy"], row["resends"]) == ("held", "hold", 0)
    assert (row["mailer"], row["server"]) == ("default", "scripted.invalid:25")
    assert row["begun_at"]


def test_doubts_says_that_nothing_is_known_of_a_dead_worker(run: Run) -> None:
    message = send_email("s", "b", ["ada@example.org"], in_doubt="hold")
    begun_at = datetime.now(UTC) - timedelta(minutes=1)
    Message.objects.update(state=State.SENDING, drain=uuid4(), begun_at=begun_at)
    recovery.recover("default")
    (row,) = json.loads(run("doubts", "--json")[1])
    assert (row["pk"], row["server"]) == (message.pk, "unknown")
    assert row["how_far"] == "after begin, unknown"
    assert row["cause"].startswith("The worker died after begin")


def test_how_far_it_went_is_said_of_every_stage() -> None:
    assert set(doubts.HOW_FAR) == set(Stage)


def test_status_and_doubts_count_what_was_sent_again(run: Run) -> None:
    with ScriptedMailer() as mailer, freeze() as clock:
        mailer.time_out_after_dot().time_out_after_dot()
        send_email("s", "b", ["ada@example.org"], in_doubt="resend")
        run("deliver")
        clock.move(timedelta(seconds=31))
        run("deliver")
        text = run("doubts")[1]
        header = run("status")[1].splitlines()[0]
        (stream,) = json.loads(run("status", "--json")[1])["streams"]
    assert len(mailer.conversations) == 2
    assert "policy resend, sent again 1 time(s)" in text
    assert header.endswith("sent again")
    assert (stream["resent"], stream["counts"]["in_doubt"]) == (1, 1)


def test_no_doubts_are_said_to_be_none(run: Run) -> None:
    assert run("doubts") == (0, "0 in doubt.\n")


@pytest.mark.parametrize(("decision", "after"), [("--sent", "sent"), ("--resend", "queued")])
def test_resolve_settles_a_doubt(run: Run, decision: str, after: str) -> None:
    message, other = queue(state=State.IN_DOUBT), queue()
    code, text = run("resolve", str(message.pk), str(other.pk), decision)
    assert code == 1
    assert f"Cannot resolve message {other.pk}: it is queued." in text
    assert state_of(message) == after


def test_resolve_needs_a_decision(run: Run) -> None:
    with pytest.raises(CommandError, match="one of the arguments --sent --resend is required"):
        run("resolve", "1")


# pause, resume


def test_a_paused_stream_is_not_delivered_until_it_is_resumed(
    run: Run, mailoutbox: list[Any]
) -> None:
    assert run("pause", "default") == (0, "default is now paused.\n")
    assert run("pause", "default") == (0, "default is already paused.\n")
    queue()
    run("deliver")
    assert mailoutbox == []
    assert run("resume", "default") == (0, "default is now resumed.\n")
    assert json.loads(run("resume", "default", "--json")[1])["changed"] is False
    run("deliver")
    assert len(mailoutbox) == 1


def test_resuming_delivers_at_once_where_the_engine_is_immediate(
    run: Run, settings: Settings, mailoutbox: list[Any]
) -> None:
    settings.PILLARBOX = {"ENGINE": "immediate"}
    queue()
    Pause.objects.create(stream="default")
    run("resume", "default")
    assert len(mailoutbox) == 1


def test_a_stream_that_is_not_there_cannot_be_paused(run: Run) -> None:
    assert "there are default" in usage_error(run, "pause", "defualt")
    message = queue()
    Message.objects.filter(pk=message.pk).update(stream="weekly")
    assert run("pause", "weekly")[0] == 0, "it is in the queue, though not in the settings"


# mailers

TWO = {"STREAMS": {"default": {"mailers": ["smtp", "backup"]}}}


def test_mailers_shows_each_with_its_circuit(run: Run, settings: Settings) -> None:
    settings.PILLARBOX = TWO
    later = DatabaseNow(timedelta(seconds=30))
    Circuit.objects.create(
        mailer="smtp", state="open", open_until=later, failures=2, reason="535 (open)"
    )
    Circuit.objects.create(mailer="old")
    _, text = run("mailers")
    rows = {line.split()[0]: " ".join(line.split()) for line in text.splitlines()}
    assert rows["mailer"] == "mailer backend state may be tried failures last fault"
    assert "open in 2" in rows["smtp"] or "open in 30" in rows["smtp"]
    assert rows["smtp"].endswith("s 2 535 (open)")
    assert "closed - 0 -" in rows["backup"]
    assert "old (not in the settings)" in rows["old"]
    report = {row["alias"]: row for row in json.loads(run("mailers", "--json")[1])}
    assert (report["smtp"]["state"], report["smtp"]["failures"]) == ("open", 2)
    assert 20 < report["smtp"]["open_s"] <= 30
    assert report["backup"]["state"] == "closed"


def test_a_paused_mailer_is_not_used_until_it_is_resumed(
    run: Run, settings: Settings, mailoutbox: list[Any]
) -> None:
    assert "paused" in run("mailers", "--pause", "default")[1]
    assert "paused" in run("mailers", "--pause", "default")[1]
    queue()
    run("deliver")
    assert mailoutbox == []
    assert "paused" in run("status")[1]
    assert json.loads(run("status", "--json")[1])["mailers"][0]["state"] == "paused"
    settings.PILLARBOX = {"ENGINE": "immediate"}
    assert "paused" not in run("mailers", "--resume", "default")[1]
    assert len(mailoutbox) == 1
    assert "may be tried" not in run("status")[1]


def test_a_mailer_that_is_not_there_cannot_be_paused(run: Run) -> None:
    assert "there are default" in usage_error(run, "mailers", "--pause", "smpt")
    assert not Circuit.objects.exists()


# worker


def test_a_worker_outlives_a_database_that_stays_away(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pillarbox")
    monkeypatch.setattr(worker_module, "DATABASE_AGAIN_S", 0.01)
    drains: Iterator[Any] = iter([DatabaseError("gone"), Counter(sent=2)])

    def drain(*, stop: threading.Event, **_: Any) -> Any:
        result = next(drains)
        if isinstance(result, Exception):
            raise result
        stop.set()
        return result

    monkeypatch.setattr(worker_module, "drain", drain)
    assert run("worker", "--json") == (0, '{\n  "sent": 2\n}\n')
    assert "No database (gone); it is tried again in 5 s." in caplog.text
    assert "The worker stops: 2 sent." in caplog.text


@pytest.mark.parametrize(
    ("before", "meanwhile"),
    [(700, worker_module.OBJECTS_BETWEEN_COLLECTIONS), (50_000, 50_000), (0, 0)],
    ids=["as Python has it", "as a project that collects more seldom", "switched off"],
)
def test_a_worker_collects_garbage_seldom_and_leaves_the_process_as_it_was(
    run: Run, monkeypatch: pytest.MonkeyPatch, before: int, meanwhile: int
) -> None:
    seen: list[tuple[int, bool]] = []

    def drain(*, stop: threading.Event, **_: Any) -> Any:
        seen.append((gc.get_threshold()[0], gc.get_freeze_count() > 0))
        stop.set()
        return Counter()

    monkeypatch.setattr(worker_module, "drain", drain)
    thresholds = gc.get_threshold()
    gc.set_threshold(before, 10, 10)
    try:
        run("worker", "--json")
        assert seen == [(meanwhile, True)]
        assert (gc.get_threshold()[0], gc.get_freeze_count()) == (before, 0)
    finally:
        gc.set_threshold(*thresholds)


def test_a_worker_logs_to_stderr_where_the_project_logs_nowhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logger = logging.getLogger("pillarbox")
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    logs.to_stderr(1)
    assert logger.level == logging.INFO
    logs.to_stderr(2)
    assert len(logger.handlers) == 1, "who has a handler keeps it, and gets no second one"


# The stop


def test_a_stop_wakes_who_waits_for_it() -> None:
    stop = stopping.StopFlag()
    assert stop.wait(0) is False
    threading.Timer(0.1, stop.set).start()
    started = time.monotonic()
    assert stop.wait() is True
    assert time.monotonic() - started < 5
    assert stop.is_set()


def test_the_first_signal_asks_to_stop_and_the_handlers_are_put_back(
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stopping.by_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(5)
    assert signal.getsignal(signal.SIGTERM) is before
    assert "A second signal stops at once" in capfd.readouterr().err


def test_the_second_signal_ends_the_process() -> None:
    code = (
        "import os, signal\n"
        "from pillarbox.management import stopping\n"
        "with stopping.by_signals():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('still here')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == -signal.SIGTERM
    assert b"still here" not in done.stdout


def test_outside_the_main_thread_no_signal_is_taken() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[Any] = []

    def work() -> None:
        with stopping.by_signals():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


# The terminal


class Tty(io.StringIO):
    """A stream that somebody watches."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def make_terminal(stderr: io.StringIO, stdout: Any = None) -> terminal.Terminal:
    """Return a terminal that writes into these."""
    out = OutputWrapper(stdout or io.StringIO())
    return terminal.Terminal(out, OutputWrapper(stderr), no_style())


def test_a_watched_terminal_gets_a_bar_that_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(terminal, "REDRAW_EVERY_S", 0.0)
    tty = Tty()
    with make_terminal(tty).progress("Delivering", 4) as bar:
        bar.advance()
    assert f"Delivering [{'#' * 7}{' ' * 23}] 1 of 4" in tty.getvalue()
    assert tty.getvalue().endswith("\r\033[K")


def test_a_bar_without_a_total_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "REDRAW_EVERY_S", 0.0)
    tty = Tty()
    with make_terminal(tty).progress("Pruning") as bar:
        bar.set(1000)
    assert "Pruning 1,000" in tty.getvalue()


def test_a_log_gets_a_line_from_time_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    with make_terminal(log).progress("Delivering", 4) as bar:
        bar.advance()
    assert log.getvalue() == ""
    monkeypatch.setattr(terminal, "LOG_EVERY_S", 0.0)
    with make_terminal(log).progress("Delivering", 4) as bar:
        bar.advance(2)
    assert log.getvalue() == "Delivering: 2 of 4\n"


def test_marks_become_words_where_the_terminal_knows_ascii_alone() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    make_terminal(io.StringIO(), out).say("✗ mailer: down – see → Grüße")
    out.flush()
    assert raw.getvalue() == b"FAILED mailer: down - see -> Gr??e\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.0124, "12 ms"),
        (4.21, "4.2 s"),
        (90, "2 min"),
        (3600, "60 min"),
        (7200, "2 h"),
        (100_000, "28 h"),
        (200_000, "2 d"),
    ],
)
def test_a_duration_is_in_the_unit_that_a_person_would_choose(
    seconds: float | None, text: str
) -> None:
    assert terminal.duration(seconds) == text


def test_the_verbs_of_the_outbox_are_the_subcommands() -> None:
    names = {subcommand.name for subcommand in ALL}
    assert set(outbox.__all__) - {"Options", "enqueue", "enqueue_many"} <= names
