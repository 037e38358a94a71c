"""Anymail's attributes, a subclass' and a user's, and the values in them."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from email.charset import QP, Charset
from email.header import Header
from email.headerregistry import Address, Group
from typing import Any

import pytest
from anymail.message import AnymailMessage
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.utils.datastructures import CaseInsensitiveMapping
from hypothesis import given
from hypothesis import strategies as st

from pillarbox import codec
from pillarbox.codec.values import UNPACKERS, pack, unpacker
from pillarbox.exceptions import InvalidMessage, Uncarriable
from tests.corpus.builders import plain
from tests.support.delivered import carried, encoded

ANYMAIL: dict[str, Any] = {
    "envelope_sender": "bounces@example.org",
    "esp_extra": {"ip_pool": None, "weights": (1, 2.5)},
    "merge_data": {"a@example.org": {"total": Decimal("9.90"), "due": date(2026, 11, 24)}},
    "merge_global_data": {"site": "Büro"},
    "merge_headers": {"a@example.org": {"List-Unsubscribe": "<https://example.org/a>"}},
    "merge_metadata": {"a@example.org": {"order": 42}},
    "metadata": {"at": datetime(2026, 1, 2, tzinfo=UTC), "wait": timedelta(days=-1, seconds=5)},
    "send_at": datetime(2026, 11, 24, 4, 30, tzinfo=timezone(timedelta(hours=5, minutes=45))),
    "tags": ["receipt", "$tuple"],
    "template_id": "welcome",
    "track_clicks": False,
    "track_opens": True,
}


@pytest.mark.parametrize("cls", [EmailMessage, AnymailMessage])
def test_anymails_attributes_survive(cls: type[EmailMessage]) -> None:
    email = cls("Subject", "body", to=["a@example.org"])
    for name, value in ANYMAIL.items():
        setattr(email, name, value)

    codec.check(email)
    twin = carried(email)

    assert {name: getattr(twin, name) for name in ANYMAIL} == ANYMAIL


def classes(*emails: EmailMessage) -> list[type]:
    return [type(email) for email in emails]


def test_what_anymail_calls_unset_is_not_carried() -> None:
    email = AnymailMessage("Subject", "body", to=["a@example.org"], tags=["a"])

    twin: Any = carried(email)

    assert classes(twin) == [EmailMultiAlternatives]
    assert list(json.loads(encoded(email))["attributes"]) == ["tags"]
    assert twin.tags == ["a"]
    assert not hasattr(twin, "metadata")


def test_attributes_of_a_class_survive() -> None:
    class Receipt(EmailMessage):
        tags = ["receipt"]
        categories = ("a", "b")
        renderer = object()

        def preview(self) -> str:
            return str(self.body)

    twin: Any = carried(Receipt("Subject", "body"))

    assert classes(twin) == [EmailMessage]
    assert (twin.tags, twin.categories) == (["receipt"], ("a", "b"))
    assert not hasattr(twin, "renderer")


def test_an_attribute_that_cannot_be_carried_is_refused_by_its_name() -> None:
    email = plain()
    email.esp_extra = {"files": [{"handle": object()}]}  # type: ignore[attr-defined]

    with pytest.raises(
        Uncarriable, match=r"esp_extra\['files'\]\[0\]\['handle'\] holds an object of builtins.obj"
    ) as caught:
        codec.check(email)

    assert "delete it before sending" in str(caught.value)


def test_an_attachment_that_cannot_be_carried_is_refused_by_its_number() -> None:
    email = plain()
    email.attachments = [("a.bin", b"", "image/png"), ("b.bin", object(), "image/png")]

    with pytest.raises(Uncarriable, match=r"attachments\[1\] has a object as its content"):
        encoded(email)


@pytest.mark.parametrize("name", ["to", "cc", "bcc", "reply_to"])
def test_a_text_for_a_list_of_addresses_is_refused(name: str) -> None:
    email = plain()
    setattr(email, name, "a@example.org")

    with pytest.raises((InvalidMessage, TypeError)):
        codec.check(email)
    with pytest.raises(InvalidMessage, match=f"{name} is the text .* Give a list"):
        encoded(email)


def unfolded(moment: Any) -> Any:
    """Return the moment without its fold, which an offset makes plain and ISO 8601 has not."""
    return moment.replace(fold=0)


atoms = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.datetimes(timezones=st.just(UTC)).map(unfolded),
    st.datetimes().map(unfolded),
    st.dates(),
    st.times().map(unfolded),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
)
keys = st.one_of(st.text(), st.just("$tuple"), st.integers(), st.tuples(st.text()))
values = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.lists(inner), st.lists(inner).map(tuple), st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=10,
)


@given(values)
def test_any_value_comes_back_as_it_was(value: Any) -> None:
    text = json.dumps(pack(value, "metadata"), allow_nan=False)

    back = json.loads(text, object_hook=unpacker(UNPACKERS))

    assert back == value
    assert repr(back) == repr(value)


@pytest.mark.parametrize(
    "value",
    [
        Address("Jürgen", "j", "example.org"),
        Group("list", (Address("", "a", "example.org"),)),
        float("inf"),
        float("nan"),
        time(3, 4, tzinfo=UTC),
        uuid.UUID(int=1),
    ],
)
def test_a_rare_value_comes_back_as_it_was(value: Any) -> None:
    back = json.loads(json.dumps(pack(value, "x")), object_hook=unpacker(UNPACKERS))

    assert repr(back) == repr(value)


def test_charsets_and_headers_of_pythons_email_come_back() -> None:
    charset = Charset("utf-8")
    charset.body_encoding = QP
    header = Header("Grüße", "iso-8859-1")
    header.append("plain", "us-ascii")

    back = json.loads(json.dumps(pack([charset, header], "x")), object_hook=unpacker(UNPACKERS))

    assert vars(back[0]) == vars(charset)
    assert back[1].encode() == header.encode()


@pytest.mark.parametrize("value", [object(), {1}, 1j, range(3), CaseInsensitiveMapping({})])
def test_any_other_value_is_refused(value: Any) -> None:
    with pytest.raises(Uncarriable, match="tags holds an object of"):
        pack(value, "tags")


def test_headers_that_ignore_case_are_found_as_django_finds_them() -> None:
    email = plain(headers=CaseInsensitiveMapping({"FROM": "shown@example.org", "x-a": "1"}))

    assert carried(email).message()["From"] == email.message()["From"] == "shown@example.org"
