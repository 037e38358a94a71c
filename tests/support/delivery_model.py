"""A small world of workers, a person and a mail server on the real rows, and what must hold in it.

The workers use the real claims, leases, ledger and verbs; the wire is a count of who was served.
Everything that a test does goes through `World.step`, which looks at every row before and after.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from pillarbox import outbox, send_email
from pillarbox.delivery import claims, database, parcels, recovery, ways
from pillarbox.delivery.leases import Lease
from pillarbox.delivery.ledger import Entry, Ledger
from pillarbox.delivery.outcomes import (
    Fail,
    InDoubt,
    MailerDown,
    Outcome,
    PartlySent,
    Reply,
    Retry,
    Sent,
    Stage,
)
from pillarbox.delivery.senders.base import Parcel, Result
from pillarbox.engines.worker import Engine as Worker
from pillarbox.exceptions import InvalidTransition
from pillarbox.models import (
    FINISHED,
    TRANSITIONS,
    Attempt,
    Drain,
    Message,
    Recipient,
    RecipientState,
    State,
)
from pillarbox.testing import freeze

USING = "default"
OK, NO = Reply(250, "2.0.0", "taken"), Reply(550, "5.1.1", "nobody here")
LATER = Reply(451, "4.3.0", "not now")
COLUMNS = ("pk", "state", "drain", "begun_at", "finished_at", "resends", "in_doubt", "expires_at")
_BY_RESULT = {State.SENT, State.PARTLY_SENT, State.FAILED, State.IN_DOUBT}
RENEW_EVERY = timedelta(seconds=10)

Row = dict[str, Any]
Verb = Callable[[Message], Message]


@dataclass(frozen=True)
class Answer:
    """How the server and the line behave: whom it takes the mail for, and what the worker hears."""

    takes: slice
    heard: Callable[[list[str]], Outcome]


EVERYBODY, NOBODY, ALL_BUT_LAST = slice(None), slice(0), slice(-1)
ANSWERS = {
    "taken": Answer(EVERYBODY, lambda _: Sent(reply=OK)),
    "last refused": Answer(ALL_BUT_LAST, lambda to: PartlySent(reply=OK, recipients={to[-1]: NO})),
    "last refused for now": Answer(
        ALL_BUT_LAST, lambda to: PartlySent(reply=OK, recipients={to[-1]: LATER})
    ),
    "refused for now": Answer(NOBODY, lambda _: Retry(reply=LATER)),
    "refused": Answer(NOBODY, lambda _: Fail(reply=NO)),
    "down": Answer(NOBODY, lambda _: MailerDown()),
    "taken, not heard": Answer(EVERYBODY, lambda _: InDoubt(stage=Stage.DOT)),
    "lost": Answer(NOBODY, lambda _: InDoubt(stage=Stage.DOT)),
    "first lost, last refused for now": Answer(
        NOBODY, lambda to: InDoubt(stage=Stage.DOT, recipients=_only_last(to, LATER))
    ),
}


def _only_last(to: list[str], reply: Reply) -> dict[str, Reply]:
    return {to[-1]: reply} if len(to) > 1 else {}


class Desk:
    """What one drain knows: its lease, and its parcels before begin, after it, and answered."""

    def __init__(self) -> None:
        self.lease = Lease(Worker({}), USING)
        self.lease.insert(slot=None)
        self.ledger = Ledger(self.lease.id, USING)
        self.claimed: list[Parcel] = []
        self.begun: list[Parcel] = []
        self.answered: list[Result] = []
        self.is_lost = False

    def claim(self, limit: int) -> list[Message]:
        """Claim and return what was claimed; a drain without a lease gets nothing."""
        self.is_lost = True
        with suppress(claims.LeaseLost):
            batch = claims.claim(self.lease.id, USING, ways.ways(["default"]), limit)
            self.claimed += [parcels.address(message) for message in batch.messages]
            self.is_lost = False
            return batch.messages
        return []

    def commit(self, count: int) -> Entry:
        """Record all that was answered and begin ``count`` parcels, in one group."""
        begins, self.claimed = self.claimed[:count], self.claimed[count:]
        unreadable = parcels.fill(begins, USING)
        assert not unreadable, unreadable
        entry = self.ledger.commit(begins, self.answered)
        self.answered = []
        self.claimed += entry.locked  # somebody passes by: to be tried again
        for parcel in entry.begun:
            row = Message.objects.get(pk=parcel.message.pk)
            mine = (self.lease.id, parcel.begun_at)
            assert (row.drain, row.begun_at) == mine, "begun what is another's"
        assert len({parcel.message.pk for parcel in entry.begun}) == len(entry.begun), "begun twice"
        self.begun += entry.begun
        return entry

    def hear(self, parcel: Parcel, answer: Answer) -> list[str]:
        """Say a begun message to the server; return the addresses for which it was taken."""
        self.begun.remove(parcel)
        to = list(parcel.kinds)
        self.answered.append(Result(parcel, answer.heard(to)))
        return to[answer.takes]

    def renew(self) -> None:
        """Renew the lease, if it still holds."""
        with suppress(claims.LeaseLost):
            database.run(USING, lambda: claims.renew(self.lease.id, USING))

    def give_back(self) -> None:
        """Queue again what was not begun."""
        dropped, self.claimed = self.claimed, []
        claims.give_back(self.lease.id, USING, [parcel.message for parcel in dropped])


@dataclass
class World:
    """All of it, for one run on empty tables; with `freeze`, so that time is a step too."""

    desks: list[Desk] = field(default_factory=list)
    taken: Counter[tuple[int, str]] = field(default_factory=Counter)
    """How often the server has taken a message for an address."""
    granted: Counter[int] = field(default_factory=Counter)
    """How often a person has risked a second copy: `resolve` as unsent, `release` of a doubt."""
    said_sent: set[int] = field(default_factory=set)
    held: set[int] = field(default_factory=set)
    pks: list[int] = field(default_factory=list)
    states: dict[int, State] = field(default_factory=dict)
    has_failed: bool = False

    def __post_init__(self) -> None:
        for model in (Attempt, Recipient, Message, Drain):
            model.objects.all().delete()
        self.clock = freeze()
        self.clock.__enter__()
        self.desks = [Desk(), Desk()]

    def close(self) -> None:
        """Let the clock go."""
        self.clock.__exit__(None, None, None)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Do one thing, and hold every row and every count against the rules."""
        before = _rows()
        self.clock.move(timedelta(milliseconds=1))
        try:
            yield
            after = _rows()
            self.states = {pk: State(row["state"]) for pk, row in after.items()}
            self._check(before, after)
        except BaseException:
            self.has_failed = True
            raise

    @property
    def unfinished(self) -> list[int]:
        """The messages of which something may still become by itself or by a verb."""
        return [pk for pk, state in self.states.items() if state not in FINISHED]

    @property
    def of_interest(self) -> list[int]:
        """The messages on which a person tries verbs: some verbs are for what has failed."""
        return [
            pk
            for pk, state in self.states.items()
            if state not in FINISHED - {State.FAILED, State.PARTLY_SENT}
        ]

    # What happens

    def send(self, policy: Any, recipients: int, expires_in: timedelta | None) -> None:
        """Queue a mail."""
        to = [f"u{number}@example.org" for number in range(recipients)]
        message = send_email("s", "b", to, in_doubt=policy, expires_at=expires_in)
        self.pks.append(message.pk)

    def converse(self, desk: Desk, index: int, answer: Answer) -> None:
        """Say a begun message to the server, and hear what comes back."""
        parcel = desk.begun[index % len(desk.begun)]
        for address in desk.hear(parcel, answer):
            self.taken[parcel.message.pk, address] += 1

    def break_off(self, desk: Desk, index: int) -> None:
        """Record a doubt about a conversation that still goes on, as before an engine's kill."""
        parcel = desk.begun[index % len(desk.begun)]
        desk.answered.append(Result(parcel, InDoubt(stage=Stage.UNKNOWN)))

    def wait(self, delta: timedelta, alive: Sequence[Desk]) -> None:
        """Let time pass, while those that live renew their leases."""
        end = self.clock.now + delta
        while (left := end - self.clock.now) > timedelta(0):
            self.clock.move(min(left, RENEW_EVERY))
            for desk in alive:
                desk.renew()

    def replace(self, slot: int) -> None:
        """Start a worker in the place of one that hangs: that one may still say something."""
        hanging, self.desks[slot] = self.desks[slot], Desk()
        if hanging.claimed or hanging.begun or hanging.answered:
            self.desks.append(hanging)

    def kill(self, slot: int) -> None:
        """Kill a worker: what it knew is gone, what it said is not."""
        self.desks[slot] = Desk()

    def turn(self, verb: str, index: int) -> None:
        """Let a person try a verb on a message; a refusal must leave the row alone."""
        pk = self.of_interest[index % len(self.of_interest)]
        before = Message.objects.get(pk=pk)
        try:
            after = VERBS[verb](before)
        except InvalidTransition:
            kept = Message.objects.get(pk=pk)
            assert (kept.state, kept.drain, kept.begun_at) == (
                before.state,
                before.drain,
                before.begun_at,
            )
            return
        self.held.discard(pk)
        if verb == "hold":
            self.held.add(pk)
        if verb == "resolve, sent":
            self.said_sent.add(pk)
        if verb == "resolve, not sent" or (verb == "release" and before.begun_at is not None):
            self.granted[pk] += 1
        assert verb != "hold" or after.state == State.HELD

    # What must hold

    def _check(self, before: dict[int, Row], after: dict[int, Row]) -> None:
        assert after.keys() == set(self.pks), "a message is lost, or came from nowhere"
        for pk, row in after.items():
            if pk in before:
                _check_transition(before[pk], row)
            self._check_row(pk, row)
        self._check_wire(after)

    def _check_row(self, pk: int, row: Row) -> None:
        state = State(row["state"])
        assert (row["finished_at"] is not None) is (state in FINISHED), (pk, state)
        if state in FINISHED:
            assert row["drain"] is row["begun_at"] is None, f"{pk} is {state} and still claimed"
        if state is State.SENDING:
            assert row["drain"] is not None, f"nobody would find {pk} again"
        if state is State.HELD:
            assert pk in self.held, f"{pk} is held by nobody's word"
        if state is State.IN_DOUBT:
            is_used = row["in_doubt"] == "hold" or row["resends"] or row["expires_at"]
            assert is_used, f"{pk} should have been sent again"
            is_kept = None not in (row["drain"], row["begun_at"])
            assert is_kept, f"a late 250 of {pk} would be thrown away"

    def _check_wire(self, after: dict[int, Row]) -> None:
        for (pk, address), count in self.taken.items():
            row = after[pk]
            allowed = 1 + row["resends"] + self.granted[pk]
            assert count <= allowed, f"{pk} was sent {count} times to {address}, for {allowed}"
            assert row["resends"] <= (row["in_doubt"] == "resend"), "one resend, under resend alone"
        for recipient in Recipient.objects.filter(state=RecipientState.SENT):
            pk = recipient.message_id
            told = pk in self.said_sent or self.taken[pk, recipient.address] > 0
            assert told, f"{pk} was never sent to {recipient.address}"
        for pk, row in after.items():
            if row["state"] == State.FAILED and not row["resends"] + self.granted[pk]:
                served = [to for number, to in self.taken if number == pk]
                assert not served, f"{pk} has failed, and was sent to {served}"

    def settle(self) -> None:
        """Let every worker die and a good one come: all goes on to its end, or waits for a word."""
        for _ in range(4):
            with self.step():
                self.clock.move(timedelta(hours=3))
                recovery.recover(USING)
            desk = Desk()
            with self.step():
                desk.claim(100)
            with self.step():
                desk.commit(100)
            while desk.begun:
                self.converse(desk, 0, ANSWERS["taken"])
            with self.step():
                desk.commit(0)
        waiting = {State.HELD, State.IN_DOUBT}
        left = {pk: row["state"] for pk, row in _rows().items()}
        assert set(left.values()) <= FINISHED | waiting, f"stuck: {left}"


def _rows() -> dict[int, Row]:
    return {row["pk"]: row for row in Message.objects.values(*COLUMNS)}


def _check_transition(before: Row, after: Row) -> None:
    old, new = State(before["state"]), State(after["state"])
    if old is new:
        if old in FINISHED:
            assert before == after, f"{before['pk']} was finished, and changed"
        return
    assert new in TRANSITIONS[old], f"{old} to {new} is not in the table"
    is_begun = before["begun_at"] is not None
    by_verb = {State.CANCELLED, State.HELD, State.EXPIRED, State.SUPPRESSED}
    if old is State.SENDING and new in by_verb:
        assert not is_begun, f"{new} after begin"
    if old in {State.QUEUED, State.HELD} and new in _BY_RESULT:
        assert is_begun, f"{old} to {new}, and it was not in doubt"
    if after["resends"] > before["resends"]:
        kept = (before["drain"], before["begun_at"]) == (after["drain"], after["begun_at"])
        assert kept, "a late 250 would be thrown away"
    if new is State.EXPIRED:
        assert not is_begun, "it may have arrived in time"


VERBS: dict[str, Verb] = {
    "cancel": outbox.cancel,
    "hold": outbox.hold,
    "release": outbox.release,
    "retry": outbox.retry,
    "resolve, sent": lambda message: outbox.resolve(message, sent=True),
    "resolve, not sent": lambda message: outbox.resolve(message, sent=False),
}
