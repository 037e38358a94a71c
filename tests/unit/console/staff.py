"""Messages to look at, and the people who look: each a browser with certain permissions."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from django.contrib.auth.models import Permission, User
from django.test import Client

from pillarbox import send_email
from pillarbox.models import Message

LIST = "/admin/pillarbox/message/"
LIST_QUERIES = 6  # session, user, permissions of the user and of the groups; count, rows
COLUMNS = {"state", "content", "begun_at", "message_id", "resends"}


def queue(**given: Any) -> Message:
    """Queue one mail, then set columns that only a worker or a person would set."""
    columns = {name: given.pop(name) for name in COLUMNS & given.keys()}
    mail = {"subject": "Your order", "body": "It is on its way.", "recipient_list": ["a@x.org"]}
    message = send_email(**{**mail, **given})
    Message.objects.filter(pk=message.pk).update(**columns)
    message.refresh_from_db()
    return message


def login(*permissions: str) -> Client:
    """Return a browser in which somebody of the staff with these permissions has logged in."""
    user = User.objects.create_user(f"user{User.objects.count()}", is_staff=True)
    granted = Permission.objects.filter(
        content_type__app_label="pillarbox", codename__in=permissions
    )
    assert len(granted) == len(permissions)
    user.user_permissions.set(granted)
    return _browser_of(user)


def login_as_root() -> Client:
    """Return a browser in which a superuser has logged in."""
    return _browser_of(User.objects.create_superuser("root"))


def _browser_of(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def page(message: Message) -> str:
    """Return the address of a message's page."""
    return f"{LIST}{message.pk}/change/"


def content_page(message: Message) -> str:
    """Return the address of the page with a message's content."""
    return f"{LIST}{message.pk}/content/"


def text(response: Any) -> str:
    """Return what a person reads on the page."""
    assert response.status_code == 200, response.status_code
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", response.content.decode())))


def listed(response: Any) -> list[int]:
    """Return the numbers of the messages on the list, in its order."""
    return [message.pk for message in response.context["cl"].result_list]


def press(client: Client, message: Message, operation: str) -> Any:
    """Press a button on the page of a message."""
    return client.post(f"{LIST}{message.pk}/operate/", {"operation": operation}, follow=True)


def act(client: Client, operation: str, *chosen: Message, **more: str) -> Any:
    """Run an action of the list on the chosen messages."""
    data = {"action": operation, "_selected_action": [m.pk for m in chosen], **more}
    return client.post(LIST, data, follow=True)
