"""The audit of a torture finds every kind of broken promise."""

from __future__ import annotations

from typing import Any

import pytest

from tests.torture.audit import Facts, Findings, Row, audit
from tests.torture.table import Line, render

KILL = 100.0


def facts(*rows: Row, **changes: Any) -> Facts:
    """Return a run with one kill after which all went well: every mail was accepted once."""
    names = [row.message_id for row in rows]
    moments = [(KILL + 1 + n / 10, name) for n, name in enumerate(names)]
    given = {"queued": names, "accepted": moments, "kills": [KILL], "connections": 4}
    return Facts(**{**given, "rows": rows, "patience_s": 30.0, **changes})


def sent(name: str = "<a>", policy: str = "hold", **changes: Any) -> Row:
    return Row(name, policy, **{"state": "sent", **changes})


def test_a_run_that_went_well_breaks_nothing() -> None:
    doubt = Row("<doubt>", "hold", "in_doubt", is_listed=True)
    found = audit(facts(sent(), sent("<b>", "resend"), doubt, stops=[KILL]))
    assert found == Findings(3, 1, 1, lost=0, twice=0, in_doubt=1, slowest_recovery_s=1.0)


@pytest.mark.parametrize("state", ["queued", "sending"])
def test_a_mail_that_is_left_over_is_lost(state: str) -> None:
    found = audit(facts(sent(), sent("<b>", state=state)))
    assert (found.lost, found.breaches) == (1, [f"<b> is left over, {state}"])


def test_a_mail_without_a_row_is_lost() -> None:
    found = audit(facts(sent(), queued=["<a>", "<b>"]))
    assert (found.lost, found.breaches) == (1, ["<b> was queued and has no row"])


def test_a_mail_that_is_said_to_be_sent_and_was_never_accepted_is_lost() -> None:
    found = audit(facts(sent(), sent("<b>"), accepted=[(KILL + 1, "<a>")]))
    assert (found.lost, found.breaches) == (1, ["<b> is sent and was never accepted"])


def test_a_mail_that_ended_otherwise_breaks_a_promise() -> None:
    found = audit(facts(sent(state="failed")))
    assert found.breaches == ["<a> (hold) ended as failed: nothing was wrong with it"]


def test_a_mail_that_nobody_queued_breaks_a_promise() -> None:
    found = audit(facts(sent(), accepted=[(KILL + 1, "<a>"), (KILL + 2, "<b>")]))
    assert found.breaches == ["<b> was accepted and is in no row"]


def test_a_second_copy_under_hold_breaks_a_promise() -> None:
    found = audit(facts(sent(), accepted=[(KILL + 1, "<a>"), (KILL + 2, "<a>")]))
    assert found.twice == 1
    assert found.breaches == ["<a> (hold) was sent 2 times, 0 of them counted as sent again"]


def test_sending_again_under_hold_breaks_a_promise() -> None:
    found = audit(facts(sent(resends=1)))
    assert found.breaches == ["<a> (hold) was sent again without a person's word"]


def test_a_second_copy_under_resend_is_allowed_where_it_was_counted() -> None:
    twice = [(KILL + 1, "<a>"), (KILL + 2, "<a>")]
    counted = audit(facts(sent(policy="resend", resends=1), accepted=twice))
    assert (counted.twice, counted.breaches) == (1, [])
    silent = audit(facts(sent(policy="resend"), accepted=twice))
    assert silent.breaches == ["<a> (resend) was sent 2 times, 0 of them counted as sent again"]


def test_sending_again_more_than_once_breaks_a_promise() -> None:
    found = audit(facts(sent(policy="resend", resends=2)))
    assert found.breaches == ["<a> (resend) was sent again more than once"]


def test_a_doubt_that_is_not_listed_breaks_a_promise() -> None:
    found = audit(facts(sent(), sent("<b>", state="in_doubt")))
    assert found.breaches == ["<b> (hold) is in doubt and not listed"]


def test_more_second_copies_than_kills_times_connections_break_a_promise() -> None:
    rows = [sent(f"<{n}>", "resend", resends=1) for n in range(5)]
    copies = [(KILL + n, f"<{n % 5}>") for n in range(1, 11)]
    assert audit(facts(*rows, accepted=copies, stops=[KILL])).breaches == []
    found = audit(facts(*rows, accepted=copies))
    assert found.breaches == ["5 sent twice: more than kills × open connections (4)"]


def test_more_doubts_than_kills_times_connections_break_a_promise() -> None:
    rows = [sent(f"<{n}>", state="in_doubt", is_listed=True) for n in range(5)]
    found = audit(facts(*rows))
    assert found.breaches == ["5 in doubt: more than kills × open connections (4)"]


def test_a_slow_recovery_breaks_a_promise_and_what_was_on_the_wire_does_not_hide_it() -> None:
    rows = [sent(), sent("<b>")]
    found = audit(facts(*rows, accepted=[(KILL + 0.01, "<a>"), (KILL + 31, "<b>")]))
    assert found.slowest_recovery_s == 31
    assert found.breaches == ["no mail went for 31.0 s from 100.000 on"]


def test_no_mail_after_a_kill_breaks_a_promise() -> None:
    found = audit(facts(sent(), accepted=[(KILL - 1, "<a>")]))
    assert found.breaches == ["no mail went for inf s from 100.000 on"]


def test_the_table_shows_every_number_and_who_broke_a_promise() -> None:
    kept = Line("sqlite", "worker", "at random", 61.4, Findings(20_000, 200, 5, 0, 3, 17, 2.25))
    broken = Line("sqlite", "celery", "at random", 9, Findings(1, 1, 0, 1, 0, 0, 1.0, ["<a>"]))
    unfinished = Line("mariadb", "worker", "at random", 9, None)
    assert [line.is_kept for line in (kept, broken, unfinished)] == [True, False, False]
    rows = [
        [cell.strip() for cell in text.strip("|").split("|")]
        for text in render([kept, broken, unfinished]).splitlines()
    ]
    assert rows[2][3:] == ["20,000", "200", "5", "0", "3", "17", "2.2 s", "61 s", "kept"]
    assert rows[3][-1] == "BROKEN"
    assert rows[4][3:] == [*"???????", "9 s", "BROKEN"]
