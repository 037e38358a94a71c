"""The lists of drains and of pauses."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.urls import reverse
from django.utils import timezone
from pytest_django import DjangoCaptureOnCommitCallbacks

from pillarbox.models import Drain, Pause
from tests.unit.console.staff import login, login_as_root, text

pytestmark = pytest.mark.django_db


def drain(**given: Any) -> Drain:
    now = timezone.now()
    values = {"host": "web1", "pid": 1, "engine": "worker", "started_at": now, "stay_until": now}
    return Drain.objects.create(**{**values, "lease_until": now + timedelta(seconds=12), **given})


def test_the_list_of_drains_tells_who_works_and_who_is_gone() -> None:
    now = timezone.now()
    drain(host="busy")
    drain(host="calm", idle=True)
    drain(host="leaving", closing=True)
    drain(host="dead", lease_until=now - timedelta(minutes=5))

    shown = text(login("view_drain").get("/admin/pillarbox/drain/"))

    assert re.search(r"busy 1 worker Working [345] s", shown)
    assert "calm 1 worker Idle" in shown
    assert "leaving 1 worker Closing" in shown
    assert re.search(r"dead 1 worker Gone 5\s+minutes", shown)


def test_a_drain_is_neither_made_nor_removed_by_hand() -> None:
    row = drain()
    client = login_as_root()

    for way in ("add/", f"{row.pk}/delete/"):
        assert client.post(f"/admin/pillarbox/drain/{way}", {"post": "yes"}).status_code == 403
    assert Drain.objects.count() == 1


def test_a_stream_is_paused_by_adding_and_resumed_by_deleting(
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    client = login("view_pause", "add_pause", "delete_pause")

    client.post("/admin/pillarbox/pause/add/", {"stream": "default"})
    pause = Pause.objects.get()
    assert pause.stream == "default"
    assert "default" in text(client.get("/admin/pillarbox/pause/"))

    with django_capture_on_commit_callbacks() as woken:
        client.post(f"/admin/pillarbox/pause/{pause.pk}/delete/", {"post": "yes"})
    assert not Pause.objects.exists()
    assert len(woken) == 1


def test_several_streams_are_resumed_at_once() -> None:
    client = login("view_pause", "delete_pause")
    pauses = [Pause.objects.create(stream=name) for name in ("default", "bulk")]
    data = {"action": "delete_selected", "_selected_action": [p.pk for p in pauses], "post": "yes"}

    client.post("/admin/pillarbox/pause/", data)

    assert not Pause.objects.exists()


def test_a_stream_is_paused_once_and_only_if_there_is_one() -> None:
    client = login("view_pause", "add_pause")
    client.post("/admin/pillarbox/pause/add/", {"stream": "default"})

    assert "already exists" in text(
        client.post("/admin/pillarbox/pause/add/", {"stream": "default"})
    )
    assert "Select a valid choice" in text(
        client.post("/admin/pillarbox/pause/add/", {"stream": "defautl"})
    )


def test_pausing_and_resuming_need_their_permissions() -> None:
    pause = Pause.objects.create(stream="default")
    client = login("view_pause")

    assert client.post("/admin/pillarbox/pause/add/", {"stream": "bulk"}).status_code == 403
    response = client.post(f"/admin/pillarbox/pause/{pause.pk}/delete/", {"post": "yes"})
    assert response.status_code == 403


def test_attachments_have_no_page() -> None:
    client = login_as_root()

    assert "attachment" not in client.get(reverse("admin:index")).content.decode().lower()
