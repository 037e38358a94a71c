"""The list of mailers that were down or paused, and an operator's word."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.test import override_settings
from django.utils import timezone
from pytest_django import DjangoCaptureOnCommitCallbacks

from pillarbox.models import Circuit
from tests.unit.console.staff import login, login_as_root, text

pytestmark = pytest.mark.django_db

LIST = "/admin/pillarbox/circuit/"


def act(name: str, circuit: Circuit) -> dict[str, object]:
    return {"action": name, "_selected_action": [circuit.pk]}


def test_the_list_tells_which_mailers_are_down_and_why() -> None:
    later = timezone.now() + timedelta(minutes=4, seconds=30)
    Circuit.objects.create(
        mailer="smtp", state="open", open_until=later, failures=3, reason="535 5.7.8 (open)"
    )
    Circuit.objects.create(mailer="ses", paused=True)
    Circuit.objects.create(mailer="backup", state="half_open")

    listed = text(login("view_circuit").get(LIST)).replace("\N{NO-BREAK SPACE}", " ")

    assert "smtp Open" in listed
    assert "in 4 minutes 3 535 5.7.8 (open)" in listed
    assert "ses Paused" in listed
    assert "backup Half Open" in listed


def test_an_operator_pauses_and_resumes(
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    circuit = Circuit.objects.create(mailer="smtp")
    client = login("view_circuit", "operate")

    client.post(LIST, act("pause", circuit))
    assert Circuit.objects.get().paused

    with django_capture_on_commit_callbacks() as woken:
        client.post(LIST, act("resume", circuit))
    assert not Circuit.objects.get().paused
    assert len(woken) == 1


@override_settings(PILLARBOX={"STREAMS": {"default": {"mailers": ["smtp", "backup"]}}})
def test_a_mailer_that_was_never_at_fault_is_paused_by_adding_it() -> None:
    client = login("view_circuit", "operate")

    client.post(f"{LIST}add/", {"mailer": "backup"})

    circuit = Circuit.objects.get()
    assert (circuit.mailer, circuit.paused, circuit.state) == ("backup", True, "closed")
    assert "Select a valid choice" in text(client.post(f"{LIST}add/", {"mailer": "bakcup"}))


def test_who_may_only_look_pauses_nothing() -> None:
    circuit = Circuit.objects.create(mailer="smtp")
    client = login("view_circuit")

    client.post(LIST, act("pause", circuit))
    assert client.post(f"{LIST}add/", {"mailer": "default"}).status_code == 403

    circuit.refresh_from_db()
    assert not circuit.paused
    assert Circuit.objects.count() == 1


def test_the_rows_are_the_workers_and_nobody_deletes_them() -> None:
    circuit = Circuit.objects.create(mailer="smtp", state="open")
    client = login_as_root()

    assert client.post(f"{LIST}{circuit.pk}/delete/", {"post": "yes"}).status_code == 403
    assert client.post(f"{LIST}{circuit.pk}/change/", {"mailer": "x"}).status_code == 403
    assert Circuit.objects.get().mailer == "smtp"
