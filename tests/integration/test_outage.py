"""The drain without a database: nothing is begun, nothing known is lost, and it says so once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
from django.db import DatabaseError, OperationalError, ProgrammingError, connection, connections
from django.test import override_settings

from pillarbox import send_email, signals
from pillarbox.delivery import claims, ending, leases, outage, parcels, recovery
from pillarbox.delivery.drain import drain
from pillarbox.delivery.ledger import Ledger
from pillarbox.delivery.outcomes import Retry, Sent
from pillarbox.delivery.senders.both import MixedSender
from pillarbox.delivery.senders.connections import Connection
from pillarbox.engines.base import Deadline
from pillarbox.engines.worker import Engine as Worker
from pillarbox.models import Drain, Message, State
from tests.support.mailers import delivering_by, delivering_to
from tests.support.processes import wait_for
from tests.support.scripted_smtp import Say, ScriptedServer, Step
from tests.support.unheard import unheard

pytestmark = pytest.mark.django_db(transaction=True)

GONE = "server closed the connection unexpectedly"
SAID_FIRST = "The database does not answer"
SAID_LAST = "The database answers again"


class Killing(Worker):
    """An engine that kills its jobs."""

    def deadline(self) -> Deadline:
        return Deadline(drain_s=0.3, kill_s=6.0)


class Absence:
    """Makes every statement of the drain's thread fail while it lasts; the test's own go on."""

    def __init__(self) -> None:
        self.is_on = threading.Event()
        self.thread: threading.Thread | None = None
        self.error: type[DatabaseError] = OperationalError

    def refuse(self, execute: Callable[..., Any], *details: Any) -> Any:
        if self.is_on.is_set():
            raise self.error(GONE)
        return execute(*details)

    def drain(self, **options: Any) -> Counter[str]:
        with connections["default"].execute_wrapper(self.refuse):
            return drain(**{"engine": Worker({}), **options})


@pytest.fixture
def absence() -> Absence:
    return Absence()


@contextmanager
def background(work: Callable[[], Any]) -> Iterator[list[BaseException]]:
    """Run it in a thread while the block lasts and wait for its end; yield what it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - for the test to judge
            raised.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield raised
    finally:
        thread.join(30)
        assert not thread.is_alive()


def mail(count: int, **options: Any) -> None:
    for number in range(count):
        send_email(f"n{number}", "body", ["ada@example.org"], **options)


def states() -> Counter[str]:
    return Counter(Message.objects.values_list("state", flat=True))


def begun(count: int = 1) -> bool:
    return Message.objects.filter(begun_at__isnull=False).count() >= count


@pytest.fixture
def slow() -> Iterator[ScriptedServer]:
    """A server whose answer to the dot takes half a second."""
    with (
        ScriptedServer({Step.DOT: Say("250 2.0.0 Queued", over_s=0.5)}) as server,
        delivering_to(server),
        override_settings(PILLARBOX={"CONNECTIONS": 2}),
    ):
        yield server


def test_results_wait_for_the_database_and_nothing_is_begun_meanwhile(
    absence: Absence, slow: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    mail(6)
    with background(absence.drain) as raised:
        wait_for(lambda: begun(2))
        absence.is_on.set()
        time.sleep(2.5)
        assert len(slow.accepted) == 2  # known to the drain alone
        assert states()["sending"] >= 2
        absence.is_on.clear()
    assert raised == []
    assert states() == {"sent": 6}
    assert len(slow.accepted) == 6
    assert Message.objects.filter(attempts=1).count() == 6
    assert caplog.text.count(SAID_FIRST) == 1
    assert caplog.text.count(SAID_LAST) == 1
    assert not Drain.objects.exists()


def test_a_worker_whose_lease_ran_out_meanwhile_records_late_and_begins_anew(
    absence: Absence, slow: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail(4, in_doubt="hold")
    with background(lambda: absence.drain(forever=True, stop=threading.Event())) as raised:
        wait_for(lambda: begun(2))
        first = set(Message.objects.filter(begun_at__isnull=False).values_list("pk", flat=True))
        absence.is_on.set()
        wait_for(lambda: len(slow.accepted) == 2)
        Drain.objects.all().delete()  # as another's recovery does once the lease has run out
        recovery.recover("default")
        assert states() == {"in_doubt": 2, "queued": 2}
        monkeypatch.setattr(leases, "RENEW_EVERY_S", 0.0)
        absence.is_on.clear()
    # It ended by itself, and the `worker` command starts the next one.
    assert raised == []
    assert set(Message.objects.filter(state=State.SENT).values_list("pk", flat=True)) == first
    assert states() == {"sent": 2, "queued": 2}
    drain(engine=Worker({}))
    assert states() == {"sent": 4}
    assert len(slow.accepted) == 4


def test_a_drain_that_the_engine_is_about_to_kill_says_what_it_leaves_unrecorded(
    absence: Absence, slow: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    mail(1, in_doubt="hold")
    pk = Message.objects.get().pk
    with background(lambda: absence.drain(engine=Killing({}))) as raised:
        wait_for(begun)
        absence.is_on.set()
    absence.is_on.clear()
    assert raised == []
    assert f"the results of 1 messages are left unrecorded, and these are in doubt ({pk})" in (
        caplog.text
    )
    Drain.objects.all().delete()
    recovery.recover("default")
    assert states() == {"in_doubt": 1}


def test_one_that_is_told_to_stop_waits_a_while_for_the_database_and_no_longer(
    absence: Absence, slow: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "STOP_PATIENCE_S", 0.5)
    mail(1)
    stop = threading.Event()
    with background(lambda: absence.drain(forever=True, stop=stop)) as raised:
        wait_for(begun)
        absence.is_on.set()
        wait_for(lambda: slow.accepted)
        stop.set()
    assert raised == []
    assert states() == {"sending": 1}


def test_one_that_is_told_to_stop_records_when_the_database_is_back_in_time(
    absence: Absence, slow: ScriptedServer
) -> None:
    mail(3)
    stop = threading.Event()
    with background(lambda: absence.drain(forever=True, stop=stop)) as raised:
        wait_for(begun)
        absence.is_on.set()
        wait_for(lambda: slow.accepted)
        stop.set()
        time.sleep(0.5)
        absence.is_on.clear()
    assert raised == []
    assert states() == {"sent": len(slow.accepted), "queued": 3 - len(slow.accepted)}
    assert not Drain.objects.exists()


def test_a_worker_that_starts_without_a_database_waits_for_it(
    absence: Absence, caplog: pytest.LogCaptureFixture
) -> None:
    mail(1)
    absence.is_on.set()
    stop = threading.Event()
    with (
        ScriptedServer() as server,
        delivering_to(server),
        background(lambda: absence.drain(forever=True, stop=stop)) as raised,
    ):
        wait_for(lambda: SAID_FIRST in caplog.text)
        absence.is_on.clear()
        wait_for(lambda: states() == {"sent": 1})
        stop.set()
    assert raised == []
    assert caplog.text.count(SAID_FIRST) == caplog.text.count(SAID_LAST) == 1


def test_an_engines_drain_that_cannot_start_says_so_at_once(absence: Absence) -> None:
    absence.is_on.set()
    with background(absence.drain) as raised:
        pass
    assert [type(error) for error in raised] == [OperationalError]


def test_an_error_that_waiting_does_not_mend_ends_the_drain(
    absence: Absence, slow: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outage, "FAULT_PATIENCE_S", 0.3)
    absence.error = ProgrammingError
    mail(1)
    with background(absence.drain) as raised:
        wait_for(begun)
        absence.is_on.set()
    assert [type(error) for error in raised] == [ProgrammingError]


@contextmanager
def altered(change: str, back: str) -> Iterator[None]:
    """Change a table for the time of the block."""
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {change}")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {back}")


@pytest.mark.parametrize(
    ("missing", "change", "back"),
    [
        (
            "pillarbox_circuit",
            "pillarbox_circuit RENAME TO later",
            "later RENAME TO pillarbox_circuit",
        ),
        (
            "paused",
            "pillarbox_circuit RENAME COLUMN paused TO later",
            "pillarbox_circuit RENAME COLUMN later TO paused",
        ),
    ],
    ids=["table", "column"],
)
def test_what_a_migration_has_yet_to_make_is_no_database_that_is_away(
    missing: str, change: str, back: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outage, "FAULT_PATIENCE_S", 0.3)
    stop = threading.Event()
    with (
        altered(change, back),
        background(lambda: drain(engine=Worker({}), forever=True, stop=stop)) as raised,
    ):
        try:
            wait_for(lambda: raised)
        finally:
            stop.set()
    assert [missing in str(error) for error in raised] == [True]


class Deaf:
    """Lets the first commit of a kind take place and loses its answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.times = 0

    def to(self, owner: object, name: str, when: Callable[[Any, Any], object]) -> None:
        """Lose the answer within ``owner.name`` if ``when`` says so of its last two arguments."""
        real = getattr(owner, name)

        def once(*details: Any, **options: Any) -> Any:
            if self.times or not when(*details[-2:]):
                return real(*details, **options)
            self.times = 1
            with unheard():
                return real(*details, **options)

        self._monkeypatch.setattr(owner, name, once)


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> Deaf:
    return Deaf(monkeypatch)


@pytest.fixture
def told() -> Iterator[list[str]]:
    """The subjects of the messages whose signal was sent."""
    subjects: list[str] = []

    def receive(message: Message, **_: Any) -> None:
        subjects.append(message.subject)

    signals.message_sent.connect(receive)
    yield subjects
    signals.message_sent.disconnect(receive)


def deliver_all_of(count: int) -> list[bytes]:
    """Run a drain that never ends until all is sent; return the bodies that arrived."""
    stop = threading.Event()
    with ScriptedServer() as server, delivering_to(server):
        work = background(lambda: drain(engine=Worker({}), forever=True, stop=stop))
        with work as raised:
            try:
                wait_for(lambda: states() == {"sent": count})
            finally:
                stop.set()
        assert raised == []
        return [envelope.body for envelope in server.accepted]


def test_a_claim_that_was_committed_unheard_does_not_stay_with_the_living(deaf: Deaf) -> None:
    mail(5)
    deaf.to(claims, "claim", lambda *_: True)
    assert len(deliver_all_of(5)) == 5
    assert deaf.times == 1


def test_a_begin_that_was_committed_unheard_is_sent_once(deaf: Deaf, told: list[str]) -> None:
    mail(5)
    deaf.to(Ledger, "commit", lambda begins, results: begins and not results)
    assert len(deliver_all_of(5)) == 5
    assert deaf.times == 1
    assert Message.objects.filter(attempts=1, resends=0).count() == 5


def test_a_result_that_was_committed_unheard_is_told_once(
    deaf: Deaf, told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    mail(5)
    deaf.to(Ledger, "commit", lambda _, results: results)
    assert len(deliver_all_of(5)) == 5
    assert deaf.times == 1
    assert sorted(told) == ["n0", "n1", "n2", "n3", "n4"]
    assert "is refused" not in caplog.text
    assert [message.trail.count() for message in Message.objects.all()] == [1] * 5


def test_a_begin_whose_commit_took_longer_than_the_lease_is_fresh_is_not_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mail(1)
    monkeypatch.setattr(leases, "STALE_AFTER_S", 0.6)
    monkeypatch.setattr(leases, "RENEW_EVERY_S", 0.2)
    real = Ledger.commit
    stalls = iter([True])
    sent_after: list[int] = []

    def stall(self: Ledger, begins: Any, results: Any, **kwargs: Any) -> Any:
        entry = real(self, begins, results, **kwargs)
        if begins and next(stalls, False):
            time.sleep(1)
            sent_after.append(sum(len(each.body) for each in server.envelopes))
        return entry

    monkeypatch.setattr(Ledger, "commit", stall)
    permitted: list[bool] = []
    permit = MixedSender.permit

    def note(self: Any, parcel: Any, *, allowed: bool) -> None:
        permitted.append(allowed)
        permit(self, parcel, allowed=allowed)

    monkeypatch.setattr(MixedSender, "permit", note)
    with ScriptedServer() as server, delivering_to(server):
        drain(engine=Worker({}))
    assert permitted == [False, True]
    assert sent_after == [0]
    assert [envelope.ended for envelope in server.envelopes] == ["cut", "accepted"]
    assert Message.objects.get().attempts == 1


def test_a_backend_of_others_is_not_called_once_the_lease_is_no_longer_fresh() -> None:
    mail(1)
    sent: list[Any] = []
    with (
        delivering_by("django.core.mail.backends.locmem.EmailBackend"),
        mock.patch("django.core.mail.backends.locmem.EmailBackend.send_messages", sent.append),
    ):
        parcel = parcels.address(Message.objects.get())
        assert parcels.fill([parcel], "default") == {}
        parcel.may_write = lambda: False
        assert isinstance(Connection("default").send(parcel), Retry)
        assert sent == []
        parcel.may_write = lambda: True
        assert isinstance(Connection("default").send(parcel), Sent)
    assert sent == [[parcel.email]]
