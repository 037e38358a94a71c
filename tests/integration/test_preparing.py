"""A connection that queues often has PostgreSQL plan its INSERT once; no transaction is risked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from django.test.utils import CaptureQueriesContext

from pillarbox import send_email
from pillarbox.models import Message
from pillarbox.outbox import preparing
from tests.support.vendors import only_on_postgresql

ADA = ["ada@example.org"]
pytestmark = [
    pytest.mark.django_db(transaction=True),
    only_on_postgresql("PREPARE is PostgreSQL's"),
]


@pytest.fixture(autouse=True)
def _fresh(settings: Any) -> Iterator[None]:
    """Begin and end with a connection that has prepared nothing."""
    settings.PILLARBOX = {"ENGINE": "worker"}
    connection.close()
    connection.ensure_connection()
    yield
    connection.close()


def _verbs(count: int) -> list[str]:
    """Queue so many; return the first words of the statements, notices left out."""
    with CaptureQueriesContext(connection) as queries:
        for number in range(count):
            send_email(str(number), "100 %s", ADA)
    said = [query["sql"] for query in queries if "pg_notify" not in query["sql"]]
    return [sql.split()[0] for sql in said]


USUAL = ["INSERT"] * preparing.AFTER


def test_it_is_prepared_for_the_sixth() -> None:
    assert _verbs(8) == [*USUAL, "PREPARE", "EXECUTE", "EXECUTE", "EXECUTE"]
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
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'pillarbox_%'")
        assert cursor.fetchone() == (2,)


def test_within_a_transaction_nothing_is_prepared_or_relied_upon() -> None:
    with transaction.atomic():
        assert _verbs(7) == ["INSERT"] * 7
    _verbs(7)
    with transaction.atomic():
        assert _verbs(1) == ["INSERT"]


def test_a_pooler_may_hand_on_connections_that_lack_it_or_have_it() -> None:
    _verbs(6)
    with connection.cursor() as cursor:
        cursor.execute("DEALLOCATE ALL")
    assert _verbs(2) == ["EXECUTE", "PREPARE", "EXECUTE", "EXECUTE"]
    preparing._runs.clear()  # another client's
    assert _verbs(6) == [*USUAL, "PREPARE", "EXECUTE"]
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
