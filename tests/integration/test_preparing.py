"""Who queues often has PostgreSQL plan its INSERT once; no transaction is risked by that."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from django.db.transaction import TransactionManagementError
from django.test.utils import CaptureQueriesContext

from pillarbox import send_email
from pillarbox.models import Message
from pillarbox.outbox import preparing
from tests.support.vendors import only_on_postgresql

ADA = ["ada@example.org"]
pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("fresh_connection"),
    only_on_postgresql("PREPARE is PostgreSQL's"),
]


def _verbs(count: int) -> list[str]:
    """Queue so many; return the first words of the statements, notices left out."""
    with CaptureQueriesContext(connection) as queries:
        for number in range(count):
            send_email(str(number), "100 %s", ADA)
    said = [query["sql"] for query in queries if "pg_notify" not in query["sql"]]
    return [sql.split()[0] for sql in said]


def _prepared() -> int:
    """Return how many statements of ours the connection has."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'pillarbox_%'")
        (count,) = cursor.fetchone()
    return int(count)


USUAL = ["INSERT"] * preparing.AFTER


def test_it_is_prepared_for_the_sixth() -> None:
    assert _verbs(8) == [*USUAL, "EXECUTE", "EXECUTE", "EXECUTE"]
    assert _verbs(1) == ["EXECUTE"]
    subjects = Message.objects.order_by("pk").values_list("subject", flat=True)
    assert list(subjects) == [*map(str, range(8)), "0"]
    assert {*Message.objects.values_list("state", flat=True)} == {"queued"}
    last = Message.objects.latest("pk")
    assert last.created_at == last.due_at > Message.objects.earliest("pk").created_at


def test_every_shape_of_a_row_is_prepared_for_itself() -> None:
    _verbs(6)
    for number in range(7):
        send_email("s", "b", ADA, tags=["a", str(number)], priority="high")
    assert Message.objects.latest("pk").tags == ["a", "6"]
    assert _prepared() == 2


def test_each_transaction_finds_out_for_itself() -> None:
    with transaction.atomic():
        assert _verbs(7) == [*USUAL, "EXECUTE", "EXECUTE"]
        assert _prepared() == 1
        with transaction.atomic():
            assert _verbs(1) == ["EXECUTE"]
    assert _verbs(7) == [*USUAL, "EXECUTE", "EXECUTE"]
    with transaction.atomic():
        assert _verbs(7) == [*USUAL, "EXECUTE", "EXECUTE"]
    assert _prepared() == 1
    assert Message.objects.count() == 22


def test_a_pooler_may_hand_on_another_connection_for_the_next_transaction() -> None:
    with transaction.atomic():
        _verbs(7)
    with connection.cursor() as cursor:
        cursor.execute("DEALLOCATE ALL")
    with transaction.atomic():
        assert _verbs(7) == [*USUAL, "EXECUTE", "EXECUTE"]
    assert Message.objects.count() == 14


def test_it_is_prepared_again_where_a_migration_has_changed_what_it_returns() -> None:
    _verbs(6)
    alter = "ALTER TABLE pillarbox_message ALTER id TYPE"
    with connection.cursor() as cursor:
        cursor.execute(f"{alter} integer")
    try:
        assert _verbs(2) == ["EXECUTE", "DEALLOCATE", "PREPARE", "EXECUTE", "EXECUTE"]
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"{alter} bigint")
    send_email("s", "b", ADA)
    assert Message.objects.count() == 9


def test_a_savepoint_that_rolls_back_takes_its_mails_alone() -> None:
    with transaction.atomic():
        _verbs(6)
        with transaction.atomic():
            _verbs(6)
            transaction.set_rollback(True)
        assert _verbs(6) == [*USUAL, "EXECUTE"]
    assert Message.objects.count() == 12


def test_rows_may_be_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    def as_lists(cursor: Any) -> Any:
        return list

    monkeypatch.setattr(connection.connection, "row_factory", as_lists)
    with transaction.atomic():
        assert _verbs(7) == [*USUAL, "EXECUTE", "EXECUTE"]
    assert Message.objects.count() == 7


@pytest.mark.parametrize("count", [5, 6], ids=["before it is prepared", "prepared"])
def test_in_a_broken_transaction_it_is_said_as_django_says_it(count: int) -> None:
    with transaction.atomic():
        _verbs(count)
        with pytest.raises(DatabaseError), transaction.atomic(savepoint=False):
            connection.cursor().execute("SELECT 1/0")
        with pytest.raises(TransactionManagementError):
            send_email("s", "b", ADA)
        with pytest.raises(TransactionManagementError):
            send_email("s", "b", ADA)


def test_it_follows_the_search_path_of_a_tenant() -> None:
    _verbs(6)
    with connection.cursor() as cursor, transaction.atomic():
        _verbs(6)
        cursor.execute("CREATE SCHEMA tenant")
        table = "pillarbox_message"
        cursor.execute(f"CREATE TABLE tenant.{table} (LIKE {table} INCLUDING ALL)")
        cursor.execute("SET LOCAL search_path TO tenant")
        assert _verbs(2) == ["EXECUTE", "EXECUTE"]
        assert Message.objects.count() == 2
        cursor.execute("SET LOCAL search_path TO public")
        cursor.execute("DROP SCHEMA tenant CASCADE")
    assert Message.objects.count() == 12


def test_who_ends_transactions_by_hand_has_nothing_prepared() -> None:
    transaction.set_autocommit(False)
    try:
        with pytest.raises(TransactionManagementError, match="on_commit"):
            send_email("s", "b", ADA)
        transaction.rollback()
        known = preparing._known.get(connection.connection)  # others' connections may be there
        assert known is None or not known.outside
        with transaction.atomic():
            assert _verbs(7) == ["INSERT"] * 7
        transaction.commit()
    finally:
        transaction.set_autocommit(True)
    assert Message.objects.count() == 7


def test_a_pooler_may_hand_on_connections_that_lack_it_or_have_it() -> None:
    _verbs(6)
    with connection.cursor() as cursor:
        cursor.execute("DEALLOCATE ALL")
    assert _verbs(2) == ["EXECUTE", "PREPARE", "EXECUTE", "EXECUTE"]
    preparing._known.clear()  # another client's
    assert _verbs(6) == [*USUAL, "EXECUTE"]
    assert Message.objects.count() == 14


@pytest.mark.parametrize(
    ("name", "value"),
    [("DISABLE_SERVER_SIDE_CURSORS", True), ("OPTIONS", {"server_side_binding": True})],
)
def test_settings_of_the_database_may_be_against_it(
    name: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connection.settings_dict, name, value)
    connection.close()
    assert _verbs(7) == ["INSERT"] * 7


def test_any_other_fault_comes_through() -> None:
    _verbs(6)

    def refuse(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        return execute(sql.replace("%s", "%s::box", 1), params, many, context)

    with connection.execute_wrapper(refuse), pytest.raises(DatabaseError, match="box"):
        send_email("s", "b", ADA)
    assert _verbs(1) == ["EXECUTE"]
