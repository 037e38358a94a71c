"""A real server receives the same, whether a message is sent directly or through the codec."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pillarbox import codec
from tests.corpus.messages import CORPUS, Builder
from tests.corpus.refused import REFUSED
from tests.support.delivered import send_directly, send_through_the_queue
from tests.support.smtp_sink import Sink, smtp_sink


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    with smtp_sink() as server:
        yield server


@pytest.mark.parametrize("build", CORPUS.values(), ids=CORPUS)
def test_a_message_of_the_corpus_arrives_as_if_sent_directly(build: Builder, sink: Sink) -> None:
    assert send_through_the_queue(build(), sink) == send_directly(build(), sink)


@pytest.mark.parametrize("build", REFUSED.values(), ids=REFUSED)
def test_what_a_direct_send_refuses_is_refused_at_the_call(build: Builder, sink: Sink) -> None:
    with pytest.raises(Exception) as direct:  # noqa: PT011 - whatever Django raises
        send_directly(build(), sink)
    with pytest.raises(Exception) as queued:  # noqa: PT011
        codec.check(build())
