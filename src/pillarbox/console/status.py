"""What stands where: messages by stream and state, pauses, mailers, workers seen; it only reads."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, Min, Q

from pillarbox.conf import get_settings
from pillarbox.delivery import routes
from pillarbox.delivery.claims import LEASE
from pillarbox.models import (
    FINISHED,
    UNFINISHED,
    Circuit,
    Drain,
    Message,
    Pause,
    State,
    database_now,
    in_states,
)

DAY = timedelta(days=1)
_RESENT = Count("pk", filter=Q(resends__gt=0))


@dataclass
class StreamStatus:
    """One stream: how many messages are in each state, and how long the oldest due one waits.

    ``resent`` counts those that the policy ``resend`` has sent again although they were in doubt.
    ``is_known`` is False for a stream that has left the settings; ``rate`` is as in the settings,
    None for no limit.
    """

    name: str
    is_known: bool
    is_paused: bool
    rate: str | None
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(State.values, 0))
    due: int = 0
    oldest_due_s: float | None = None
    resent: int = 0


@dataclass(frozen=True)
class WorkerStatus:
    """One drain and when it last gave a sign of life; ``doing`` is working, idle, closing, gone."""

    host: str
    pid: int
    engine: str
    doing: str
    heartbeat_age_s: float
    running_s: float

    @property
    def is_alive(self) -> bool:
        """Whether its lease holds."""
        return self.doing != "gone"


@dataclass(frozen=True)
class MailerStatus:
    """One mailer and its circuit; ``state`` is closed, open, half_open or paused.

    ``open_s`` is in how many seconds it may be tried; ``is_known`` False that no setting names it.
    """

    alias: str
    backend: str
    is_known: bool
    state: str = "closed"
    open_until: datetime | None = None
    open_s: float | None = None
    failures: int = 0
    reason: str = ""

    @property
    def carries(self) -> bool:
        """Whether mail goes by it."""
        return self.state == "closed"


@dataclass(frozen=True)
class Status:
    """Everything at one moment; ``finished_within`` bounds the finished ones, None: all of them."""

    streams: list[StreamStatus]
    mailers: list[MailerStatus]
    workers: list[WorkerStatus]
    finished_within: timedelta | None

    @property
    def oldest_due_s(self) -> float:
        """How long the oldest due message of a stream that is not paused has waited."""
        waits = [it.oldest_due_s or 0.0 for it in self.streams if not it.is_paused]
        return max(waits, default=0.0)

    def count(self, state: State) -> int:
        """Return how many messages are in a state, over all streams."""
        return sum(stream.counts[state] for stream in self.streams)


def read(using: str, *, finished_within: timedelta | None = DAY) -> Status:
    """Read it in four queries that the indexes serve, however many finished rows there are.

    The finished ones are counted as far back as ``finished_within``: all of them, where that is
    None, is a scan of the table.
    """
    now = database_now(using)
    streams = _streams(using, now, finished_within)
    return Status(streams, mailers(using, now), workers(using, now), finished_within)


def _streams(using: str, now: datetime, within: timedelta | None) -> list[StreamStatus]:
    paused = set(Pause.objects.using(using).values_list("stream", flat=True))
    known = get_settings().streams
    found = {name: _stream(name, paused) for name in known}
    for row in [*_unfinished(using, now), *_finished(using, now, within)]:
        name = row["stream"]
        stream = found.setdefault(name, _stream(name, paused))
        stream.counts[row["state"]] = row["messages"]
        stream.due += row.get("due", 0)
        stream.resent += row["resent"]
        if row.get("oldest"):
            stream.oldest_due_s = max(0.0, (now - row["oldest"]).total_seconds())
    return list(found.values())


def _stream(name: str, paused: Container[str]) -> StreamStatus:
    settings = get_settings()
    rate = settings.stream(name).rate
    return StreamStatus(
        name=name,
        is_known=name in settings.streams,
        is_paused=name in paused,
        rate=str(rate) if rate else None,
    )


def _unfinished(using: str, now: datetime) -> Iterable[Mapping[str, Any]]:
    is_due = Q(state=State.QUEUED, due_at__lte=now)
    rows = Message.objects.using(using).filter(in_states(UNFINISHED)).order_by()
    return rows.values("stream", "state").annotate(
        messages=Count("pk"),
        resent=_RESENT,
        due=Count("pk", filter=is_due),
        oldest=Min("due_at", filter=is_due),
    )


def _finished(using: str, now: datetime, within: timedelta | None) -> Iterable[Mapping[str, Any]]:
    rows = Message.objects.using(using).filter(state__in=FINISHED).order_by()
    if within is not None:
        rows = rows.filter(finished_at__gt=now - within)
    return rows.values("stream", "state").annotate(messages=Count("pk"), resent=_RESENT)


def mailers(using: str, now: datetime | None = None) -> list[MailerStatus]:
    """Return the mailers of the settings, and those that only have a circuit of earlier days."""
    now = now or database_now(using)
    rows = {row.mailer: row for row in Circuit.objects.using(using).all()}
    named = [alias for stream in get_settings().streams.values() for alias in stream.mailers]
    known = dict.fromkeys([*routes.aliases(), *named])
    aliases = [*known, *(alias for alias in rows if alias not in known)]
    return [_mailer(alias, rows.get(alias), now, is_known=alias in known) for alias in aliases]


def _mailer(alias: str, row: Circuit | None, now: datetime, *, is_known: bool) -> MailerStatus:
    backend = routes.path_of(alias) or ""
    if row is None:
        return MailerStatus(alias, backend, is_known)
    until = row.open_until if row.state == Circuit.State.OPEN else None
    return MailerStatus(
        alias,
        backend,
        is_known,
        state="paused" if row.paused else row.state,
        open_until=until,
        open_s=max(0.0, (until - now).total_seconds()) if until is not None else None,
        failures=row.failures,
        reason=row.reason,
    )


def workers(using: str, now: datetime | None = None) -> list[WorkerStatus]:
    """Return the drains that have a row, those that died without a word too."""
    now = now or database_now(using)
    return [_worker(row, now) for row in Drain.objects.using(using).order_by("host", "pid")]


def _worker(row: Drain, now: datetime) -> WorkerStatus:
    if row.lease_until <= now:
        doing = "gone"
    elif row.closing:
        doing = "closing"
    else:
        doing = "idle" if row.idle else "working"
    return WorkerStatus(
        host=row.host,
        pid=row.pid,
        engine=row.engine,
        doing=doing,
        heartbeat_age_s=max(0.0, (now - (row.lease_until - LEASE)).total_seconds()),
        running_s=max(0.0, (now - row.started_at).total_seconds()),
    )
