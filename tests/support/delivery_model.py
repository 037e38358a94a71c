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

from django.db import OperationalError

from pillarbox import outbox, send_email
from pillarbox.delivery import claims, database, parcels, recovery, ways
from pillarbox.delivery.groups import Entry
from pillarbox.delivery.leases import Lease
from pillarbox.delivery.ledger import Ledger
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
from pillarbox.models import FINISHED, Attempt, Drain, Message, Recipient, RecipientState, State
from pillarbox.testing import freeze
from tests.support import delivery_rules as rules
from tests.support.delivery_rules import Row
from tests.support.unheard import unheard

USING = "default"
OK, NO = Reply(250, "2.0.0", "taken"), Reply(550, "5.1.1", "nobody here")
LATER = Reply(451, "4.3.0", "not now")
RENEW_EVERY = timedelta(seconds=10)

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

    @property
    def knows_something(self) -> bool:
        """Whether it may still begin or record anything."""
        return bool(self.claimed or self.begun or self.answered)

    def claim(self, limit: int) -> list[Message]:
        """Claim and return what was claimed; a drain without a lease gets nothing."""
        self.is_lost = True
        with suppress(claims.LeaseLost):
            batch = claims.claim(self.lease.id, USING, ways.ways(["default"]), limit)
            self.claimed += [parcels.address(message) for message in batch.messages]
            self.is_lost = False
            return batch.messages
        return []

    def commit(self, count: int, *, newest: bool = False) -> Entry:
        """Record all that was answered and begin ``count`` parcels, in one group.

        The oldest claims go first, or the ``newest``. Raise what the database raises: what was to
        be committed then stays with the desk, as whether it was is not known.
        """
        if newest:
            self.claimed.reverse()
        begins = self.claimed[:count]
        unreadable = parcels.fill(begins, USING)
        assert not unreadable, unreadable
        entry = self.ledger.commit(begins, self.answered)
        self.answered = []
        # Somebody passes by those that are locked: to be tried again.
        self.claimed = self.claimed[count:] + entry.locked
        for parcel in entry.begun:
            row = Message.objects.get(pk=parcel.message.pk)
            mine = (self.lease.id, parcel.begun_at)
            assert (row.drain, row.begun_at) == mine, "begun what is another's"
        assert len({parcel.message.pk for parcel in entry.begun}) == len(entry.begun), "begun twice"
        self.begun += entry.begun
        self.disown([parcel for parcel in entry.lost if parcel.begins_tried])
        return entry

    def disown(self, parcels: Sequence[Parcel]) -> None:
        """Queue again what was begun, or perhaps begun, and never said to the server."""
        assert not self.ledger.disown(parcels), "somebody has locked a row"

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
        """Queue again what was not begun, as far as is known."""
        dropped, self.claimed = self.claimed, []
        never = [parcel.message for parcel in dropped if not parcel.begins_tried]
        claims.give_back(self.lease.id, USING, never)
        self.disown([parcel for parcel in dropped if parcel.begins_tried])


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
    _before: dict[int, Row] = field(default_factory=dict)
    """The rows as they were when the step began."""

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
        self._before = rules.rows()
        self.clock.move(timedelta(milliseconds=1))
        try:
            yield
            self.desks[2:] = [desk for desk in self.desks[2:] if desk.knows_something]
            after = rules.rows()
            self.states = {pk: State(row["state"]) for pk, row in after.items()}
            self._check(self._before, after)
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

    def send(self, policy: Any, recipients: int, **options: Any) -> None:
        """Queue a mail."""
        to = [f"u{number}@example.org" for number in range(recipients)]
        message = send_email("s", "b", to, in_doubt=policy, **options)
        self.pks.append(message.pk)

    def commit(self, desk: Desk, count: int, *, newest: bool = False) -> None:
        """Let a desk record what it heard and begin ``count`` parcels, each only if it may."""
        tried = {parcel: list(parcel.begins_tried) for parcel in desk.claimed}
        known = _recorded(desk)
        entry = desk.commit(count, newest=newest)
        for parcel in entry.begun:
            message = parcel.message
            row = self._before[message.pk]
            may = rules.may_begin(row, desk.lease.id, tried[parcel], message.attempts)
            assert may, f"begun by a claim that holds no more: {row}"
        for result, _ in entry.settled:
            if result not in known:
                row = self._before[result.parcel.message.pk]
                may = rules.may_settle(row, desk.lease.id, result.parcel.begun_at)
                assert may, f"settled what is not its own any more: {row}"
        assert not known.intersection(entry.refused), "refused what it had recorded"
        assert all(_times_recorded(desk, result) == 1 for result in known), "recorded twice"

    def give_back(self, desk: Desk) -> None:
        """Let a desk give back what it has not begun, and look that it touches nothing else."""
        never = {it.message.pk for it in desk.claimed} - {
            it.message.pk for it in desk.claimed if it.begins_tried
        }
        desk.give_back()
        after = rules.rows()
        for pk in never:
            row = self._before[pk]
            assert rules.may_give_back(row, desk.lease.id) or after[pk] == row, (row, after[pk])

    def commit_unheard(self, desk: Desk, count: int) -> None:
        """Let the commit take place and its answer be lost: the desk tries it again later."""
        with unheard(), suppress(OperationalError):
            desk.commit(count)

    def disown(self, desk: Desk, parcel: Parcel) -> None:
        """Let a desk find that its lease was stale before it wrote what it had begun."""
        desk.begun.remove(parcel)
        desk.disown([parcel])

    def recover(self) -> None:
        """Recover, and look that each message became what its policy says, and no other changed."""
        live = set(
            Drain.objects.filter(lease_until__gt=self.clock.now).values_list("pk", flat=True)
        )
        recovery.recover(USING)
        after = rules.rows()
        for pk, row in self._before.items():
            is_orphan = row["state"] == State.SENDING and row["drain"] not in live
            rules.check_recovered(row, after[pk], is_orphan=is_orphan, now=self.clock.now)

    def converse(self, desk: Desk, parcel: Parcel, answer: str) -> None:
        """Say a begun message to the server, and hear what comes back."""
        for address in desk.hear(parcel, ANSWERS[answer]):
            self.taken[parcel.message.pk, address] += 1

    def break_off(self, desk: Desk, parcel: Parcel) -> None:
        """Record a doubt about a conversation that still goes on, as before an engine's kill."""
        desk.answered.append(Result(parcel, InDoubt(stage=Stage.UNKNOWN)))
        self.commit(desk, 0)

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
        self.desks.append(hanging)

    def kill(self, slot: int) -> None:
        """Kill a worker: what it knew is gone, what it said is not."""
        self.desks[slot] = Desk()

    def turn(self, verb: str, pk: int) -> None:
        """Let a person try a verb on a message; a refusal must leave the row alone."""
        before = self._before[pk]
        may = rules.may_turn(verb, before)
        try:
            VERBS[verb](Message.objects.get(pk=pk))
        except InvalidTransition:
            assert not may, f"{verb} refused: {before}"
            assert rules.rows()[pk] == before
            return
        assert may, f"{verb} allowed: {before}"
        rules.check_turned(verb, rules.rows()[pk])
        self.held.discard(pk)
        if verb == "hold":
            self.held.add(pk)
        if verb == "resolve, sent":
            self.said_sent.add(pk)
        if verb == "resolve, not sent" or (verb == "release" and rules.is_begun(before)):
            self.granted[pk] += 1

    # What must hold

    def _check(self, before: dict[int, Row], after: dict[int, Row]) -> None:
        assert after.keys() == set(self.pks), "a message is lost, or came from nowhere"
        for pk, row in after.items():
            if pk in before:
                rules.check_transition(before[pk], row, self.clock.now)
            rules.check_row(row, self.held)
        self._check_claims(before, after)
        self._check_wire(after)

    def _check_claims(self, before: dict[int, Row], after: dict[int, Row]) -> None:
        claimed = {
            row["drain"]
            for pk, row in after.items()
            if row["state"] == State.SENDING and before[pk]["state"] != State.SENDING
        }
        live = Drain.objects.filter(pk__in=claimed, lease_until__gt=self.clock.now)
        assert not claimed or live.count() == len(claimed), "claimed by a dead drain"

    def _check_wire(self, after: dict[int, Row]) -> None:
        for (pk, address), count in self.taken.items():
            row = after[pk]
            allowed = 1 + row["resends"] + self.granted[pk]
            assert count <= allowed, f"{pk} was sent {count} times to {address}, for {allowed}"
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
                self.recover()
            desk = Desk()
            with self.step():
                desk.claim(100)
            with self.step():
                self.commit(desk, 100)
            while desk.begun:
                self.converse(desk, desk.begun[0], "taken")
            with self.step():
                self.commit(desk, 0)
        waiting = {State.HELD, State.IN_DOUBT}
        left = {pk: row["state"] for pk, row in rules.rows().items()}
        assert set(left.values()) <= FINISHED | waiting, f"stuck: {left}"


def _recorded(desk: Desk) -> set[Result]:
    """Return those of a desk's results that it has recorded without hearing of it."""
    tried = [result for result in desk.answered if result.verdict]
    return {result for result in tried if _times_recorded(desk, result)}


def _times_recorded(desk: Desk, result: Result) -> int:
    attempts = Attempt.objects.filter(drain=desk.lease.id, message=result.parcel.message)
    return attempts.filter(started_at=result.started_at).count()


VERBS: dict[str, Verb] = {
    "cancel": outbox.cancel,
    "hold": outbox.hold,
    "release": outbox.release,
    "retry": outbox.retry,
    "resolve, sent": lambda message: outbox.resolve(message, sent=True),
    "resolve, not sent": lambda message: outbox.resolve(message, sent=False),
}
