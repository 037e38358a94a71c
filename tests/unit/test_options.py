"""What a caller may say about a message besides its content is checked at the call."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from types import MappingProxyType
from typing import Any

import pytest

from pillarbox.exceptions import InvalidMessage
from pillarbox.models import Priority
from pillarbox.outbox import Options

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
FIRST, LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


class Choice(str, Enum):  # noqa: UP042 - a StrEnum would write itself as its value
    """``str()`` and ``hash()`` of a member are not those of its text."""

    STREAM = "bulk"
    PRIORITY = "high"
    IN_DOUBT = "hold"
    KEY = "order-7"


def nested(levels: int, *, by: type = dict) -> dict[str, Any]:
    """Return a dictionary of so many levels, itself counted."""
    inner: Any = 1
    for _ in range(levels - 1):
        inner = {"a": inner} if by is dict else by([inner])
    return {"a": inner}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"stream": "bulks"},
            ["stream", "'bulks'", "Did you mean 'bulk'?", 'PILLARBOX["STREAMS"]'],
        ),
        ({"stream": "zzz"}, ["stream", "Choose one of default, bulk"]),
        ({"stream": None}, ["stream", "None"]),
        ({"priority": "hihg"}, ["priority", "Did you mean 'high'?"]),
        ({"priority": 1}, ["priority", "Choose one of high, normal, low"]),
        ({"in_doubt": "held"}, ["in_doubt", "Did you mean 'hold'?"]),
        ({"in_doubt": ""}, ["in_doubt", "Choose one of resend, hold"]),
        ({"sensitive": 1}, ["sensitive is 1", "True or False"]),
        ({"send_at": 60}, ["send_at is 60", "aware datetime or a timedelta"]),
        ({"send_at": datetime(2026, 1, 1)}, ["send_at", "naive", "timezone.now()"]),  # noqa: DTZ001
        ({"expires_at": "soon"}, ["expires_at is 'soon'"]),
        ({"expires_at": datetime(2026, 1, 1)}, ["expires_at", "naive"]),  # noqa: DTZ001
        ({"idempotency_key": ""}, ["idempotency_key", "1 to 255"]),
        ({"idempotency_key": "k" * 256}, ["idempotency_key", "1 to 255"]),
        ({"idempotency_key": 7}, ["idempotency_key", "string"]),
        ({"idempotency_key": "a\x00b"}, ["idempotency_key", "NUL", "Leave it out"]),
        ({"idempotency_key": "a\ud800"}, ["idempotency_key", "surrogate"]),
        ({"tags": "sale"}, ["tags is 'sale'", "list of strings"]),
        ({"tags": ["sale", 1]}, ["tags holds 1", "strings only"]),
        ({"tags": ["a\x00"]}, ["tags", "NUL"]),
        ({"metadata": ["a"]}, ["metadata", "dictionary"]),
        ({"metadata": {"when": NOON}}, ["metadata", "JSON"]),
        ({"metadata": {"n": float("nan")}}, ["metadata", "JSON"]),
        ({"metadata": {"a": "\x00"}}, ["metadata", "NUL"]),
        ({"metadata": {"a": "\ud800"}}, ["metadata", "surrogate"]),
        ({"metadata": {1: "a"}}, ["metadata", "the key 1 is no string", "string keys"]),
        ({"metadata": {"a": [({None: "b"},)]}}, ["metadata", "the key None", "string keys"]),
        ({"metadata": nested(31)}, ["metadata is nested deeper than 30", "json.dumps(value)"]),
        ({"metadata": nested(31, by=list)}, ["metadata is nested deeper than 30"]),
        ({"metadata": nested(31, by=tuple)}, ["metadata is nested deeper than 30"]),
        ({"metadata": nested(99_999)}, ["metadata is nested deeper than 30"]),
    ],
)
def test_what_cannot_be_followed_is_refused_with_the_argument_and_the_remedy(
    settings: Any, given: dict[str, Any], words: list[str]
) -> None:
    settings.PILLARBOX = {"STREAMS": {"bulk": {}}}
    with pytest.raises(InvalidMessage) as caught:
        Options(**given)
    for word in words:
        assert word in str(caught.value)


def test_a_metadata_of_any_mapping_is_taken() -> None:
    assert Options(metadata=MappingProxyType({"order": 7})).metadata == {"order": 7}


@pytest.mark.parametrize("by", [dict, list, tuple])
def test_metadata_of_30_levels_is_taken(by: type) -> None:
    assert Options(metadata=nested(30, by=by)).metadata == nested(30, by=by)


def test_metadata_that_holds_itself_again_and_again_is_refused_at_once() -> None:
    twice: list[Any] = []
    twice += [twice, twice]
    with pytest.raises(InvalidMessage, match="metadata is nested deeper"):
        Options(metadata={"a": twice})


def test_what_is_given_as_an_enum_is_kept_as_its_characters(settings: Any) -> None:
    settings.PILLARBOX = {"STREAMS": {"bulk": {}}}
    options = Options(
        stream=Choice.STREAM,
        priority=Choice.PRIORITY,
        in_doubt=Choice.IN_DOUBT,
        idempotency_key=Choice.KEY,
        tags=["plain", Choice.KEY],
        using=Choice.KEY,
    )
    kept = [options.stream, options.priority, options.in_doubt, options.idempotency_key]
    assert kept == ["bulk", "high", "hold", "order-7"]
    assert (options.using, options.tags) == ("order-7", ["plain", "order-7"])
    assert {type(text) for text in (*kept, options.using, *options.tags)} == {str}
    assert options.priority_number == Priority.HIGH


def test_a_text_that_only_looks_like_a_nul_is_no_nul() -> None:
    assert Options(metadata={"a": "\\u0000"}).metadata == {"a": "\\u0000"}


def test_every_priority_has_its_number() -> None:
    numbers = [Options(priority=name).priority_number for name in ("high", "normal", "low")]
    assert numbers == [Priority.HIGH, Priority.NORMAL, Priority.LOW]
    assert numbers == sorted(numbers)


def test_a_moment_is_kept_in_utc_and_a_timedelta_counts_from_now() -> None:
    eastern = timezone(timedelta(hours=-5))
    at, until = Options(
        send_at=NOON.astimezone(eastern) + timedelta(hours=1), expires_at=timedelta(hours=2)
    ).schedule(NOON)
    assert (at, until) == (NOON + timedelta(hours=1), NOON + timedelta(hours=2))
    assert at is not None
    assert at.tzinfo is UTC


def test_nothing_given_schedules_nothing() -> None:
    assert Options().schedule(NOON) == (None, None)


@pytest.mark.parametrize(
    "times",
    [
        {"expires_at": timedelta(0)},
        {"expires_at": NOON - timedelta(days=1)},
        {"send_at": timedelta(hours=2), "expires_at": timedelta(hours=2)},
    ],
)
def test_a_message_that_would_expire_before_it_is_due_is_refused(times: dict[str, Any]) -> None:
    with pytest.raises(InvalidMessage, match=r"expires_at .* is not after .*Pass a later one"):
        Options(**times).schedule(NOON)


@pytest.mark.parametrize("name", ["send_at", "expires_at"])
def test_a_moment_beyond_the_calendar_is_refused_by_name(name: str) -> None:
    margin, second = timedelta(days=2), timedelta(seconds=1)
    for moment in (timedelta.max, LAST, LAST - margin + second, LAST - NOON, FIRST, FIRST + second):
        times: dict[str, Any] = {name: moment}
        with pytest.raises(InvalidMessage, match=rf"{name} .*beyond the calendar.*a nearer one"):
            Options(**times).schedule(NOON)


@pytest.mark.parametrize("hours", [-24, 24])
def test_the_first_and_the_last_moment_that_are_taken_can_be_read_in_every_zone(hours: int) -> None:
    zone = timezone(timedelta(hours=hours) - timedelta(microseconds=hours // 24))
    for moment in (FIRST + timedelta(days=2), LAST - timedelta(days=2)):
        send_at, _ = Options(send_at=moment).schedule(NOON)
        assert send_at == moment
        assert send_at.astimezone(zone) == moment


def test_a_sensitive_stream_makes_its_messages_sensitive(settings: Any) -> None:
    settings.PILLARBOX = {"STREAMS": {"codes": {"sensitive": True}}}
    assert Options(stream="codes").is_sensitive
    assert Options(sensitive=True).is_sensitive
    assert not Options().is_sensitive


def test_the_options_of_one_message_take_the_place_of_the_call_s() -> None:
    options = Options(priority="low", tags=["a"], using="smtp")
    own = options.overridden_by({"priority": "high", "idempotency_key": "k"})
    assert (own.priority, own.idempotency_key, own.tags, own.using) == ("high", "k", ["a"], "smtp")
    assert options.overridden_by(None) is options


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"steam": "bulk"}, ["unknown key 'steam'", "Did you mean 'stream'?"]),
        ({"zzz": 1}, ["unknown key 'zzz'", "Known are stream, priority"]),
        ({"using": "smtp"}, ["unknown key 'using'"]),
        ({"stream": "nowhere"}, ["stream is 'nowhere'"]),
        ("bulk", ["message.pillarbox", "dictionary"]),
    ],
)
def test_a_wrong_option_of_one_message_is_refused(given: Any, words: list[str]) -> None:
    with pytest.raises(InvalidMessage) as caught:
        Options().overridden_by(given)
    for word in words:
        assert word in str(caught.value)
