"""Who may do what in the admin; and what nobody may."""

from __future__ import annotations

import pytest
from django.test import Client

from pillarbox.console.operations import BY_NAME
from pillarbox.models import Message, State
from tests.unit.console.staff import LIST, act, login, login_as_root, page, press, queue, text

pytestmark = pytest.mark.django_db


def test_without_the_permission_nothing_is_shown() -> None:
    message = queue()
    client = login()

    assert client.get(LIST).status_code == 403
    assert client.get(page(message)).status_code == 403


@pytest.mark.parametrize("way", ["add/", "{pk}/delete/"])
def test_a_message_is_never_added_or_deleted_by_hand(way: str) -> None:
    message = queue()
    client = login_as_root()

    assert client.get(LIST + way.format(pk=message.pk)).status_code == 403
    assert client.post(LIST + way.format(pk=message.pk), {"post": "yes"}).status_code == 403
    assert Message.objects.exists()


def test_a_message_is_never_edited_by_hand() -> None:
    message = queue()
    client = login_as_root()

    assert client.post(page(message), {"state": "sent"}).status_code == 403
    assert act(client, "delete_selected", message).status_code == 200
    message.refresh_from_db()
    assert message.state == State.QUEUED


def test_whoever_only_looks_sees_no_buttons(viewer: Client) -> None:
    message = queue()

    assert "What you can do" not in text(viewer.get(page(message)))
    assert 'name="action"' not in viewer.get(LIST).content.decode()


@pytest.mark.parametrize("permissions", [("view_message",), ("operate",), ()])
@pytest.mark.parametrize("operation", sorted(BY_NAME))
def test_whoever_may_not_operate_is_refused(permissions: tuple[str, ...], operation: str) -> None:
    message = queue()
    client = login(*permissions)

    assert press(client, message, operation).status_code == 403
    act(client, operation, message)
    message.refresh_from_db()
    assert message.state == State.QUEUED


def test_an_operation_is_never_a_get(operator: Client) -> None:
    message = queue()

    response = operator.get(f"{LIST}{message.pk}/operate/", {"operation": "cancel"})

    assert response.status_code == 405
    message.refresh_from_db()
    assert message.state == State.QUEUED


def test_an_operation_needs_the_csrf_token(operator: Client) -> None:
    message = queue()
    operator.handler.enforce_csrf_checks = True

    assert press(operator, message, "cancel").status_code == 403
    assert act(operator, "cancel", message).status_code == 403
    message.refresh_from_db()
    assert message.state == State.QUEUED


def test_an_anonymous_visitor_is_sent_to_the_login() -> None:
    message = queue()

    for way in ("operate/", "content/"):
        response = Client().post(f"{LIST}{message.pk}/{way}", {"operation": "cancel"})
        assert response.status_code == 302
        assert "/login/" in response["Location"]
