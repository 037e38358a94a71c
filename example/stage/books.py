"""Closes the books: rows against arrivals, by Message-ID and by content, and the times between."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from pillarbox.models import Message, State
from stage.mail import Arrival, judge
from stage.scenes import Result

UNFINISHED = (State.QUEUED, State.SENDING, State.IN_DOUBT)


def unfinished() -> int:
    """Return how many mails are still on their way."""
    return Message.objects.filter(state__in=UNFINISHED).count()


def faults(results: Sequence[Result], arrivals: Sequence[Arrival]) -> list[str]:
    """Return a line for everything that is not as it was meant; none is what the demo promises."""
    meant = [mail for result in results for mail in result.meant]
    found = judge(meant, (arrival.mail for arrival in arrivals))
    states = dict(Message.objects.values_list("message_id", "state"))
    found += [
        f"not sent but {state}: {mid}" for mid, state in states.items() if state != State.SENT
    ]
    counted = Counter(arrival.message_id for arrival in arrivals)
    found += [f"never arrived: {mid}" for mid in states if mid not in counted]
    found += [f"arrived without a row: {mid}" for mid in counted if mid not in states]
    found += [f"arrived {n} times: {mid}" for mid, n in counted.items() if n > 1]
    for mid in (mid for result in results for mid in result.rolled_back):
        if mid in states or mid in counted:
            found.append(f"rolled back and yet there: {mid}")
    return found


def rows(
    results: Sequence[Result], arrivals: Sequence[Arrival], commits: Mapping[str, float]
) -> tuple[list[list[str]], list[str]]:
    """Return the final table's rows and its last one."""
    sent = set(Message.objects.filter(state=State.SENT).values_list("message_id", flat=True))
    table, totals = [], [0, 0, 0]
    for result in results:
        meant = set(result.meant)
        mine = [arrival for arrival in arrivals if arrival.mail in meant]
        ids = {arrival.message_id for arrival in mine}
        counts = [len(ids & commits.keys()), len(ids & sent), len(result.rolled_back)]
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
        table.append(_row(result.name, counts, _times(_latencies(mine, commits))))
    return table, _row("Together", totals, _times(_latencies(arrivals, commits)))


def _latencies(arrivals: Sequence[Arrival], commits: Mapping[str, float]) -> list[float]:
    return sorted(
        arrival.moment - commits[arrival.message_id]
        for arrival in arrivals
        if arrival.message_id in commits
    )


def _times(latencies: list[float]) -> list[str]:
    if not latencies:
        return ["", "", ""]
    percent = statistics.quantiles(latencies * 2, n=100, method="inclusive")
    return [_time(seconds) for seconds in (percent[49], percent[94], latencies[-1])]


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _row(name: str, counts: Sequence[int], times: Sequence[str]) -> list[str]:
    queued, sent, rolled_back = counts
    return [name, str(queued), str(sent), *times, str(rolled_back) if rolled_back else ""]
