"""Most messages take a short way into their row: there they are refused, and written, as any."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.utils.safestring import SafeString
from hypothesis import event, example, given
from hypothesis import strategies as st

from pillarbox import codec, send_email, send_emails, testing
from pillarbox.models import Message
from pillarbox.outbox import drafts
from pillarbox.outbox.content import Content
from tests.unit.test_fuzz_api import GOOD, calls, fuzzed

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _no_broker(settings: Any) -> None:
    settings.PILLARBOX = {"ENGINE": "worker"}


words = st.text("aé\\\"'\n\t <>%s(日😀", max_size=12)
lines = st.text("aé\\\"' <>%s(日😀", max_size=12)
mailboxes = st.sampled_from(
    [
        *("ada@example.org", "Ada <Ada@Example.org>", '"A, (B)" <b@example.org>', "root@localhost"),
        *('"<x> y" <z@example.org>', f'"{"(" * 21}" <p@example.org>', "Zoë <z@example.org>"),
    ]
)
some = st.lists(mailboxes, max_size=3)
letters = st.fixed_dictionaries(
    {"subject": lines, "body": words, "recipient_list": some},
    optional={
        "html": words.map(SafeString),
        "from_email": mailboxes,
        "cc": some.map(tuple),
        "bcc": some,
        "reply_to": some,
        "headers": st.dictionaries(st.sampled_from(["X-A", "List-Id", "Sender"]), lines),
        "idempotency_key": st.just("k"),
        "tags": st.lists(words, max_size=2),
        "metadata": st.dictionaries(words, words, max_size=2),
        "priority": st.sampled_from(["high", "soon"]),
        "sensitive": st.booleans(),
    },
)


def _outcome(write: Callable[[], object], *, short: bool) -> object:
    """Return the row that is written, or what is said against it."""
    Message.objects.all().delete()
    with pytest.MonkeyPatch.context() as patch, testing.freeze(NOON):
        patch.setattr(drafts, "_new_message_id", lambda sender: f"<1@{sender[-11:]}>")
        if not short:
            patch.setattr(Content, "letter", lambda *_: None)
            patch.setattr(codec, "letter_of", lambda *_: None)
        try:
            write()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the same
            return type(error), str(error)
    (row,) = Message.objects.values()
    return {name: value for name, value in row.items() if name != "id"}


@fuzzed
@given(arguments=st.one_of(letters, calls.filter(lambda call: "attachments" not in call)))
@example(arguments={**GOOD, "headers": {"X-A": "\\"}, "html": "<p>\x7f", "body": ""})
@example(arguments={**GOOD, "recipient_list": [], "bcc": ("ada@example.org",)})
@pytest.mark.django_db
def test_a_call_has_the_same_outcome_by_both(arguments: dict[str, Any]) -> None:
    short = _outcome(lambda: send_email(**arguments), short=True)
    assert short == _outcome(lambda: send_email(**arguments), short=False)
    event("written" if isinstance(short, dict) else "refused")
    event("a letter" if Content(**_content(arguments)).letter() else "any other")


def _content(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name in Content._fields}


@fuzzed
@given(arguments=letters, cls=st.sampled_from([EmailMessage, EmailMultiAlternatives]))
@pytest.mark.django_db
def test_a_message_in_a_mailing_has_the_same_outcome_by_both(
    arguments: dict[str, Any], cls: type[EmailMessage]
) -> None:
    given = dict(_content(arguments))
    html, to = given.pop("html", None), given.pop("recipient_list")
    email = cls(**given, to=to)
    if html is not None and isinstance(email, EmailMultiAlternatives):
        email.attach_alternative(html, "text/html")
    elif html is not None:
        email.content_subtype = "html"
    short = _outcome(lambda: send_emails([email]), short=True)
    assert short == _outcome(lambda: send_emails([email]), short=False)


class TestMessageId:
    def test_its_domain_is_the_sender_s(self) -> None:
        made = drafts._new_message_id("Shop <shop@Bücher.example>")
        left, _, right = made.partition("@")
        assert (left[0], right) == ("<", "xn--bcher-kva.example>")
        assert left[1:].replace(".", "").isdigit()

    def test_no_two_are_alike_in_all_threads_and_forks_whatever_the_project_seeds(self) -> None:
        with ThreadPoolExecutor(4) as threads:
            made = [one for many in threads.map(_ids, range(8)) for one in many]
        for _ in range(3):
            made += _in_a_fork()
        made += _ids(0)
        assert len(set(made)) == len(made) == 12 * 500

    def test_a_fork_draws_other_numbers(self) -> None:
        numbers = {one.split(".")[2] for _ in range(3) for one in _in_a_fork()}
        assert len(numbers) == 3 * 500


def _ids(_: int) -> list[str]:
    random.seed(0)
    return [drafts._new_message_id("shop@example.org") for _ in range(500)]


def _in_a_fork() -> list[str]:
    """Return what a forked process makes, through a pipe."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        with os.fdopen(writer, "w") as pipe:
            pipe.write("\n".join(_ids(0)))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        made = pipe.read().split("\n")
    os.wait()
    return made
