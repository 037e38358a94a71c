"""The list: what it shows, and that millions of rows do not slow it."""

from __future__ import annotations

import re

import pytest
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from pillarbox.console import search
from pillarbox.console.changelist import CappedPaginator
from pillarbox.models import State
from tests.unit.console.staff import LIST, LIST_QUERIES, listed, queue, text

pytestmark = pytest.mark.django_db


def test_the_list_shows_what_became_of_each_message(viewer: Client) -> None:
    queue(recipient_list=["a@x.org", "b@x.org", "c@x.org"], state=State.PARTLY_SENT)

    shown = text(viewer.get(LIST))

    for word in ("Partly Sent", "Your order", "a@x.org +2 more", "default", "Normal"):
        assert word in shown


def test_the_list_costs_the_same_number_of_queries_for_one_message_and_for_fifty(
    viewer: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    queue()
    with django_assert_num_queries(LIST_QUERIES):
        viewer.get(LIST)
    for _ in range(49):
        queue()
    with django_assert_num_queries(LIST_QUERIES):
        assert len(listed(viewer.get(LIST))) == 50


def test_the_list_never_counts_the_whole_table(
    viewer: Client,
    django_assert_num_queries: DjangoAssertNumQueries,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(CappedPaginator, "limit", 2)
    for _ in range(3):
        queue()

    with django_assert_num_queries(LIST_QUERIES) as queries:
        shown = text(viewer.get(LIST))

    assert "There are more than 2" in shown
    assert "3 results" not in shown
    counts = [q["sql"] for q in queries.captured_queries if "COUNT(" in q["sql"].upper()]
    assert counts
    assert all("LIMIT 3" in sql for sql in counts)


def test_the_list_does_not_read_the_contents(
    viewer: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    queue()

    with django_assert_num_queries(LIST_QUERIES) as queries:
        viewer.get(LIST)

    assert not any(re.search(r"\bcontent\b", q["sql"]) for q in queries.captured_queries)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("state__exact=failed", ["failed"]),
        ("stream=default&state__exact=queued", ["plain", "urgent", "secret"]),
        ("priority__exact=1", ["urgent"]),
        ("sensitive__exact=1", ["secret"]),
        ("stream=elsewhere", []),
    ],
)
def test_the_list_is_filtered(viewer: Client, query: str, found: list[str]) -> None:
    rows = {
        "plain": queue(),
        "failed": queue(state=State.FAILED),
        "urgent": queue(priority="high"),
        "secret": queue(sensitive=True),
    }

    assert set(listed(viewer.get(f"{LIST}?{query}"))) == {rows[name].pk for name in found}


def test_filters_without_an_index_look_at_the_newest_only(
    viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "RECENT", 1)
    old, new = queue(), queue()

    response = viewer.get(f"{LIST}?stream=default")

    assert listed(response) == [new.pk]
    assert "look through the newest" in text(response)
    assert set(listed(viewer.get(f"{LIST}?stream=default&state__exact=queued"))) == {
        old.pk,
        new.pk,
    }


def test_the_list_is_ordered_by_number_whatever_the_address_bar_says(viewer: Client) -> None:
    first, second = queue(stream="default", subject="A"), queue(subject="B")

    assert listed(viewer.get(f"{LIST}?o=5")) == [second.pk, first.pk]


@pytest.mark.parametrize("lookup", ["content__contains", "subject__startswith", "metadata__a"])
def test_nobody_can_ask_for_the_content_in_the_address_bar(viewer: Client, lookup: str) -> None:
    queue(sensitive=True)

    assert viewer.get(f"{LIST}?{lookup}=x").status_code == 400
