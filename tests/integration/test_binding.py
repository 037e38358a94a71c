"""What is prepared goes by the protocol's Bind, and nobody can tell but by the time it takes."""

from __future__ import annotations

import uuid
from collections.abc import Generator, Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from django.db import (
    DatabaseError,
    DataError,
    IntegrityError,
    OperationalError,
    ProgrammingError,
    connection,
    connections,
    transaction,
)
from pytest_django import Settings

from pillarbox import send_email
from pillarbox.delivery import binding, claims, database
from pillarbox.delivery.leases import Lease
from pillarbox.delivery.ways import Way
from pillarbox.engines import get_engine
from pillarbox.exceptions import IdempotencyConflict
from pillarbox.models import Message, State
from pillarbox.outbox import preparing
from tests.support.vendors import only_on_postgresql

ADA = ["ada@example.org"]
pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("fresh_connection"),
    only_on_postgresql("Bind is of PostgreSQL's protocol"),
]


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch) -> list[list[bytes | None]]:
    """Return a list that grows with the parameters of each Bind."""
    seen: list[list[bytes | None]] = []
    octets = binding._octets

    def noted(parameters: Any) -> list[bytes | None] | None:
        found = octets(parameters)
        seen.extend([found] if found is not None else [])
        return found

    monkeypatch.setattr(binding, "_octets", noted)
    return seen


def _send(count: int, **more: Any) -> list[Message]:
    return [send_email(f"Größe {n} '\\%s", "100 %", ADA, **more) for n in range(count)]


def test_what_is_bound_is_what_is_inserted(bound: list[Any]) -> None:
    more: dict[str, Any] = {
        "priority": "high",
        "tags": ["naïve", "'"],
        "metadata": {"order": 'a "b" \\'},
        "sensitive": True,
        "expires_at": timedelta(hours=1),
    }
    sent = _send(8, **more)
    assert len(bound) == 3
    rows: list[Any] = list(Message.objects.order_by("pk").values())
    assert len(rows) == 8
    first, last = rows[0], rows[-1]
    one_by_one = {"id", "message_id", "date", "due_at", "retry_since", "created_at", "expires_at"}
    alike = {*first} - one_by_one - {"subject", "content", "fingerprint"}
    assert {name: last[name] for name in alike} == {name: first[name] for name in alike}
    assert last["subject"] == "Größe 7 '\\%s"
    assert last["created_at"] > first["created_at"]
    assert (sent[-1].pk, sent[-1].created_at) == (last["id"], last["created_at"])
    assert last["expires_at"] - first["expires_at"] < timedelta(minutes=1)


def test_within_a_transaction_and_its_savepoints(bound: list[Any]) -> None:
    with transaction.atomic():
        _send(7)
        with transaction.atomic():
            _send(7)
            transaction.set_rollback(True)
        with transaction.atomic():
            _send(7)
    assert len(bound) == 2 + 7 + 2  # after a savepoint's rollback it is asked for anew
    assert Message.objects.count() == 14
    with transaction.atomic():
        _send(7)
        transaction.set_rollback(True)
    assert Message.objects.count() == 14


def test_a_key_that_is_taken_gives_the_first_message(bound: list[Any]) -> None:
    # A key is within a savepoint, and so within a transaction.
    with transaction.atomic():
        sent = [send_email("s", "b", ADA, idempotency_key=f"k{n}") for n in range(8)]
        for first in sent:
            assert send_email("s", "b", ADA, idempotency_key=first.idempotency_key) == first
        with pytest.raises(IdempotencyConflict, match="k7"):
            send_email("s", "another", ADA, idempotency_key="k7")
    assert Message.objects.count() == 8


def test_where_queries_are_logged_their_text_is_seen(bound: list[Any]) -> None:
    _send(6)
    assert len(bound) == 1
    connection.force_debug_cursor = True
    try:
        _send(2)
        said = [query["sql"] for query in connection.queries if "EXECUTE" in query["sql"]]
    finally:
        connection.force_debug_cursor = False
    assert len(said) == 2
    assert "Größe 1" in said[1]
    assert len(bound) == 1


def test_wrappers_see_each_call_and_may_change_it(bound: list[Any]) -> None:
    _send(6)
    seen: list[str] = []

    def comment(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        seen.append(sql)
        return execute(f"{sql} /* checkout */", params, many, context)

    def look(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        seen.append(sql)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(comment):
        _send(1)
    assert len(bound) == 1
    with connection.execute_wrapper(look):
        _send(1)
    assert len(bound) == 2
    assert sum(sql.startswith("EXECUTE") for sql in seen) == 2
    assert Message.objects.count() == 8


def test_behind_a_pooler_it_stays_text(bound: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing, "_LOOK", preparing._LOOK.replace("pid()", "pid() + 1"))
    _send(8)
    with transaction.atomic():
        _send(8)
    assert bound == []
    assert Message.objects.count() == 16


def test_what_the_server_has_forgotten_is_prepared_again(bound: list[Any]) -> None:
    _send(6)
    with connection.cursor() as cursor:
        cursor.execute("DEALLOCATE ALL")
    _send(2)
    assert len(bound) == 4  # one of them in vain
    assert Message.objects.count() == 8


def _end_session() -> None:
    """Have the server end the connection, as a restart of it does."""
    parameters = connections["default"].get_connection_params()
    del parameters["cursor_factory"], parameters["context"]
    pid = connection.connection.info.backend_pid
    with psycopg.connect(**parameters) as other:
        other.execute("SELECT pg_terminate_backend(%s)", [pid])


def test_a_lost_connection_is_djangos_operational_error() -> None:
    _send(6)
    _end_session()
    with pytest.raises(OperationalError):
        _send(1)
    connection.close()
    _send(1)
    assert Message.objects.count() == 7


def test_what_the_row_may_not_be_is_djangos_error_too(bound: list[Any]) -> None:
    _send(6)
    with connection.cursor() as cursor:
        cursor.execute(
            "ALTER TABLE pillarbox_message ADD CONSTRAINT no_more CHECK (id < 0) NOT VALID"
        )
    try:
        with pytest.raises(DatabaseError, match="no_more"):
            _send(1)
        with transaction.atomic():
            with pytest.raises(DatabaseError, match="no_more"), transaction.atomic():
                _send(1)
            assert Message.objects.count() == 6
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE pillarbox_message DROP CONSTRAINT no_more")
    assert len(bound) == 2


def test_in_a_pipeline_of_the_driver_it_stays_text(bound: list[Any]) -> None:
    _send(6)
    with connection.connection.pipeline():
        _send(1)
    assert len(bound) == 1
    assert Message.objects.count() == 7


@pytest.mark.parametrize("value", ["a\0b", 1.5, b"octets", ["a"]])
def test_what_has_no_form_is_left_to_the_driver(value: Any) -> None:
    assert binding._octets(["a", value]) is None


def test_forms() -> None:
    assert binding._octets(["ü", None, True, False, 7]) == ["ü".encode(), None, b"1", b"0", b"7"]
    octets = binding._octets([uuid.UUID(int=7), timedelta(days=-1, microseconds=1)])
    assert octets == [b"00000000-0000-0000-0000-000000000007", b"-1 d 0 s 1 us"]


@pytest.mark.parametrize("seconds", [15, -0.5, 1e-6, 86400.5 * 3650])
def test_a_uuid_and_a_length_of_time_arrive(seconds: float, bound: list[Any]) -> None:
    values = [uuid.uuid4(), timedelta(seconds=seconds)]
    found = [
        database.execute("default", "SELECT %s::uuid, %s::interval", values, prepare=True)
        for _ in range(3)
    ]
    assert found == [[tuple(values)]] * 3
    assert len(bound) == 2


def test_a_drain_starts_and_claims_by_it(bound: list[Any], settings: Settings) -> None:
    settings.PILLARBOX = {"ENGINE": "django_q2"}
    _send(6)
    way = Way("default", ("smtp",), limit=1)
    leases = [Lease(get_engine(), "default") for _ in range(2)]
    assert all(lease.take(way) for lease in leases)
    taken = [message for lease in leases if lease.taken for message in lease.taken.messages]
    mine = leases[1].id
    assert str(mine).encode() in bound[-1]
    taken += [m for _ in range(2) for m in claims.claim(mine, "default", [way], 1).messages]
    assert str(mine).encode() in bound[-1]
    assert len(bound) == 1 + 2  # a send_email's, and the second of each
    assert {(message.drain, message.state) for message in taken[1:]} == {(mine, State.SENDING)}
    assert len({message.pk for message in taken}) == 4


def _run_both(first: str, divisor: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        call = "EXECUTE pillarbox_b (%s)"
        binding.execute(connection, cursor, [first, "pillarbox_b"], call, [divisor])
        assert cursor.nextset() is None
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows


def test_several_are_one_transaction_and_any_that_fails_is_told(bound: list[Any]) -> None:
    name = "current_setting('application_name')"
    with connection.cursor() as cursor:
        cursor.execute("SET application_name = 'usual'")
        cursor.execute("PREPARE pillarbox_a AS SELECT set_config('application_name', 'own', TRUE)")
        cursor.execute(f"PREPARE pillarbox_b AS SELECT 6 / $1::bigint, TRUE, {name}, NULL::text")
        for _ in range(2):
            assert _run_both("pillarbox_a", "2") == [(3, True, "own", None)]
            with pytest.raises(DataError, match="division by zero"):
                _run_both("pillarbox_a", "0")
            with pytest.raises(ProgrammingError, match="pillarbox_c"):
                _run_both("pillarbox_c", "1")
        cursor.execute(f"SELECT {name}")
        assert cursor.fetchone() == ("usual",)
    assert len(bound) == 6


@pytest.fixture
def numbers() -> Iterator[str]:
    """A table of numbers, and the statement that inserts one."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE pillarbox_numbers (n bigint)")
    yield "INSERT INTO pillarbox_numbers VALUES (%s::bigint) RETURNING n"
    connection.close()  # which a test that fails may leave in any state
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE pillarbox_numbers")


def _insert(statement: str, number: int) -> list[tuple[Any, ...]]:
    return database.execute("default", statement, [number], prepare=True)


def test_what_fails_only_at_the_commit_is_told_and_leaves_the_connection_of_use(
    numbers: str, bound: list[Any]
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE pillarbox_numbers ADD UNIQUE (n) DEFERRABLE INITIALLY DEFERRED")
    for number in range(4):
        assert _insert(numbers, number) == [(number,)]
    driver = connection.connection
    with pytest.raises(IntegrityError):
        _insert(numbers, 3)
    assert driver.pgconn.pipeline_status == 0
    assert _insert(numbers, 4) == [(4,)]
    assert connection.connection is driver
    assert len(bound) == 3 + 2


def test_a_conflict_that_comes_at_the_commit_is_tried_again_on_the_same_connection(
    numbers: str, bound: list[Any]
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE SEQUENCE pillarbox_commits OWNED BY pillarbox_numbers.n")
        cursor.execute(
            "CREATE FUNCTION pg_temp.conflict() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "IF nextval('pillarbox_commits') = 3 THEN RAISE 'once' USING ERRCODE = '40001'; END IF;"
            "RETURN NULL; END $$"
        )
        cursor.execute(
            "CREATE CONSTRAINT TRIGGER conflict AFTER INSERT ON pillarbox_numbers DEFERRABLE "
            "INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pg_temp.conflict()"
        )
    driver = connection.connection
    for number in range(4):
        assert _insert(numbers, number) == [(number,)]
    assert connection.connection is driver
    assert len(bound) == 3 + 1  # one of them in vain
    assert database.execute("default", "SELECT count(*) FROM pillarbox_numbers", []) == [(4,)]


@pytest.mark.parametrize("is_bound", [True, False], ids=["bound", "as text"])
def test_a_statement_whose_result_a_migration_has_changed_is_prepared_again(
    numbers: str, bound: list[Any], is_bound: bool
) -> None:
    connection.force_debug_cursor = not is_bound
    try:
        for number in range(3):
            assert _insert(numbers, number) == [(number,)]
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE pillarbox_numbers ALTER n TYPE integer")
        for number in range(2):
            assert _insert(numbers, number) == [(number,)]
    finally:
        connection.force_debug_cursor = False
    assert len(bound) == (5 if is_bound else 0)  # one of them in vain
    assert database.execute("default", "SELECT count(*) FROM pillarbox_numbers", []) == [(5,)]


def test_a_connection_that_is_lost_between_several_is_djangos_operational_error(
    numbers: str, bound: list[Any]
) -> None:
    for number in range(3):
        _insert(numbers, number)
    _end_session()
    with pytest.raises(OperationalError):
        _insert(numbers, 3)
    assert len(bound) == 3
    assert _insert(numbers, 3) == [(3,)]


def test_what_is_long_and_what_is_many_arrives_whole(bound: list[Any]) -> None:
    with connection.cursor() as cursor:
        cursor.execute("PREPARE pillarbox_a AS SELECT 1")
        cursor.execute("PREPARE pillarbox_l AS SELECT n, $1::text FROM generate_series(1, 50) AS n")
        long = "ü" * 2**20
        binding.execute(connection, cursor, ["pillarbox_a", "pillarbox_l"], "EXECUTE", [long])
        assert cursor.fetchall() == [(n, long) for n in range(1, 51)]
    assert len(bound) == 1


def test_without_pipelines_a_mail_is_bound_and_a_workers_commit_stays_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(psycopg.Pipeline, "is_supported", lambda: False)  # libpq before 14
    pid = connection.connection.info.backend_pid
    assert binding.is_possible(connection, pid)
    assert not binding.is_possible(connection, pid, together=True)
    assert not binding.is_possible(connection, pid + 1)


def test_text_in_another_encoding_is_left_to_the_driver(bound: list[Any]) -> None:
    _send(6)
    with connection.cursor() as cursor:
        cursor.execute("SET client_encoding TO 'LATIN1'")
    _send(1)
    assert len(bound) == 1
    with connection.cursor() as cursor:
        cursor.execute("SET client_encoding TO 'UTF8'")
    assert Message.objects.latest("pk").subject.startswith("Größe 0")


class _Broken:
    """A driver's connection that tells nothing more, as after an answer that is no protocol's."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def test_an_answer_that_never_ends_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(_: Any) -> Generator[Any, Any, list[Any]]:
        yield from ()
        return []

    of_psycopg = SimpleNamespace(
        generators=SimpleNamespace(send=nothing, fetch_many=nothing), errors=psycopg.errors
    )
    monkeypatch.setattr(binding, "_of_psycopg", lambda: of_psycopg)
    with pytest.raises(psycopg.InternalError, match="no rows"):
        list(binding._run(_Broken(), [b"a", b"b"], []))
