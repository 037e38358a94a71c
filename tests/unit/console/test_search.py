"""The search: what it finds, and what nobody can find out by it."""

from __future__ import annotations

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from pillarbox.console import search
from pillarbox.models import Recipient, RecipientState
from tests.unit.console.staff import LIST, LIST_QUERIES, listed, queue

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    "term",
    [
        "ann@example.org",
        "Ann@Example.org",
        "Ann Smith <ann@example.org>",
        "ann@",
        "bob@example.org",
        "bob@ex",
        "<unique@shop.example>",
        "unique@shop.example",
        "gradua",
        "NUMBER",
    ],
)
def test_the_search_finds_a_message_by(viewer: Client, term: str) -> None:
    wanted = queue(
        recipient_list=["Ann@example.org", "bob@example.org"],
        subject="Your graduation, 50 % off",
        message_id="<unique@shop.example>",
    )
    Recipient.objects.create(
        message=wanted,
        address="bob@example.org",
        state=RecipientState.SENT,
        updated_at=timezone.now(),
    )
    queue(recipient_list=["other@example.net"])
    term = str(wanted.pk) if term == "NUMBER" else term

    assert listed(viewer.get(LIST, {"q": term})) == [wanted.pk]


@pytest.mark.parametrize("term", ["%", "_", "nobody@example.org", "9" * 30, "  nothing  ", "\x00"])
def test_the_search_takes_whatever_is_typed(viewer: Client, term: str) -> None:
    queue(subject="Plain")

    found = listed(viewer.get(LIST, {"q": term}))

    assert found == [] or term == "\x00"


def test_a_sensitive_subject_cannot_be_found_out_by_searching(viewer: Client) -> None:
    queue(subject="Code 123456", sensitive=True)

    assert listed(viewer.get(LIST, {"q": "123456"})) == []


def test_subjects_are_searched_among_the_newest_only(
    viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "RECENT", 1)
    queue(subject="Needle")
    new = queue(subject="Needle")

    assert listed(viewer.get(LIST, {"q": "needle"})) == [new.pk]


def test_a_search_costs_the_same_number_of_queries_whatever_it_finds(
    viewer: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for _ in range(20):
        queue()
    with django_assert_num_queries(LIST_QUERIES + 5):
        viewer.get(LIST, {"q": "a@x.org"})
