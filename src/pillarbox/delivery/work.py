"""What both ways of draining share: from a claimed batch to recorded results."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Iterable, Sequence

from django.db import DatabaseError, DataError, IntegrityError, InterfaceError

from pillarbox.delivery import circuits, claims, looks, outcomes, parcels, report, routes, ways
from pillarbox.delivery.circuits import Circuits
from pillarbox.delivery.groups import Entry
from pillarbox.delivery.leases import Lease
from pillarbox.delivery.ledger import Ledger
from pillarbox.delivery.looks import Survey
from pillarbox.delivery.outcomes import MailerDown, Stage
from pillarbox.delivery.outcomes.replies import CLOSING
from pillarbox.delivery.senders.base import Begin, Parcel, Result, Sender, Wanted, Word
from pillarbox.delivery.ways import Way
from pillarbox.engines.base import Engine

logger = logging.getLogger("pillarbox.delivery")

EXPIRE_EVERY_S = 30.0
LOCKED_FIRST_S = 0.02
LOCKED_MAX_S = 0.5
"""When to try again to begin a message whose row is locked: MariaDB locks rows for a moment that a
claim only passes by, a verb in somebody's open transaction for as long as that lasts."""

LOCKED_NAMED_S = 0.2
"""For how long a server is kept waiting whose message is locked: 20, 40, 80 and 160 ms."""

Tally = Counter[str]
"""How many attempts ended how: the names of `Attempt.Result`, and ``expired``."""


class Work:
    """One run: what it holds, and what its connections have said and is not yet committed."""

    sender: Sender

    def __init__(self, engine: Engine, using: str) -> None:
        self.engine = engine
        self.using = using
        self.lease = Lease(engine, using)
        self.ledger = Ledger(self.lease.id, using)
        self.tally: Tally = Counter()
        self._wanted: list[Parcel] = []
        """What is to be read before its begin is asked for."""
        self._unreadable: dict[Parcel, Exception] = {}
        """What could not be, and has no result yet."""
        self._begins: list[Parcel] = []
        self._results: list[Result] = []
        self._postponed: list[tuple[float, Parcel]] = []
        self._kept_waiting: list[tuple[float, Parcel]] = []
        """Locked ones whose servers wait for their bodies."""
        self._ways: list[Way] = []
        self._survey = Survey([], [], set(), set())
        self.circuits = Circuits(self.lease.id, using)
        self._trials: dict[str, Parcel] = {}
        """The one message by which a mailer is tried."""
        self._lessons: list[Result] = []
        """What attempts have shown of their mailers and the circuits do not know yet."""
        self._to_give_back: list[Parcel] = []
        self._expired_at: float | None = None
        self._unsent: list[Parcel] = []
        """Begun, or perhaps begun, and never permitted: to be queued again."""
        self._known: set[int] = set()
        """The messages that this run knows to be its own, from the claim to the result."""

    def _look_for_ways(self, survey: Survey | None = None) -> None:
        """Find out by which ways mail may go: from ``survey``, or by a new one."""
        self._survey = survey or looks.survey(self.using)
        streams = claims.streams_to_serve(self._survey)
        self._ways = ways.ways(streams, self._survey.hints)
        if not self._survey.unwell:
            self.circuits.are_well()

    def _open_ways(self) -> list[Way]:
        return ways.without(self._ways, self.circuits.unavailable())

    def _blocked_ways(self) -> list[Way]:
        """Return the ways that no mailer serves now."""
        unavailable = self.circuits.unavailable()
        return [way for way in self._ways if unavailable.issuperset(way.mailers)]

    def _trial_ways(self) -> list[Way]:
        """Return the ways whose mail a mailer would carry that may be tried now, one each."""
        unavailable, found = self.circuits.unavailable(), []
        for mailer in sorted(self.circuits.to_be_tried()):
            able = ways.without(self._ways, unavailable - {mailer})
            found += [dataclasses.replace(w, limit=1) for w in able if w.mailer == mailer]
        return found

    def _try_mailers(self) -> None:
        """Send one message by each mailer whose time has come, if this drain gets to try it."""
        for mailer in sorted(self.circuits.to_be_tried()):
            mine = [way for way in self._trial_ways() if way.mailer == mailer]
            if mine and self._has_due(mine) and self.circuits.take_probe(mailer):
                batch = self._take(mine, 1)
                if not batch.messages:
                    self.circuits.release_probe(mailer)
                self._offer(batch, is_trial=True)

    def _has_due(self, found: Sequence[Way]) -> bool:
        return bool(looks.due_ways(self.using, found))

    def _take(self, found: Sequence[Way], limit: int) -> claims.Batch:
        return claims.claim(self.lease.id, self.using, found, limit)

    def _tend_trials(self) -> None:
        """Keep the trials under way, and give up those whose message never came."""
        self._release_trials()
        self.circuits.keep_probes()

    def _end_trials(self) -> None:
        """Leave to others what this drain was still to try; it raises nothing."""
        try:
            for mailer in list(self.circuits.probing):
                self.circuits.release_probe(mailer)
        except (DatabaseError, InterfaceError):
            logger.warning("A mailer's trial could not be given up; others try it in 15 s.")

    def _offer(self, batch: claims.Batch, *, is_trial: bool = False) -> None:
        for message in batch.expired:
            self.tally["expired"] += 1
            report.expired(message)
        offered = [parcels.address(message) for message in batch.messages]
        if is_trial:
            self._trials.update((parcel.mailer, parcel) for parcel in offered)
        for parcel in offered:
            parcel.may_write = self._may_write
            self._known.add(parcel.message.id)
        is_idle = not self.sender.in_hand
        self.sender.offer(offered)
        if is_idle:
            parcels.read_at_once(offered[:1], self.using)

    def _offer_postponed(self) -> None:
        """Offer what was locked and is no more: to find that out at begin may cost a connection."""
        now = time.monotonic()
        again = [parcel for again_at, parcel in self._postponed if again_at <= now]
        locked = self.ledger.locked(again)
        self._postponed = [entry for entry in self._postponed if entry[0] > now]
        for parcel in again:
            parcel.is_named = False
            if parcel.message.pk in locked:
                self._postpone(parcel)
            else:
                self.sender.offer([parcel])

    def _postpone(self, parcel: Parcel) -> None:
        parcel.locked_s = min(2 * parcel.locked_s or LOCKED_FIRST_S, LOCKED_MAX_S)
        self._postponed.append((time.monotonic() + parcel.locked_s, parcel))

    @property
    def _is_unsettled(self) -> bool:
        return bool(self._begins or self._results or self._unsent)

    def _expire_waiting(self) -> None:
        """End what expired while its mailers carry nothing, at first and then every 30 s.

        A claim sees to the rest.
        """
        if self._expired_at is not None and time.monotonic() - self._expired_at < EXPIRE_EVERY_S:
            return
        self._expired_at = time.monotonic()
        blocked = self._blocked_ways()
        if blocked:
            self._offer(claims.Batch(expired=claims.expire(self.using, blocked)))

    def _may_write(self) -> bool:
        """Whether a body may go on being written; asked by the connections' threads."""
        return True

    def _settle(self, said: Sequence[Word]) -> None:
        """Record and begin in one commit, then answer the connections and tell the world.

        Raise what the database raises; nothing is lost by that, and the next call tries again. What
        was committed without an answer is then found out.
        """
        self._hear(said)
        self._try_again()
        if not self.lease.is_fresh:
            self._refuse_begins()
        self._disown()
        self._read_ahead()
        if self._begins or self._results:
            self._commit()
        self._look_ahead()
        self._end_unreadable()
        self._mind_mailers()

    def _commit(self) -> None:
        self._read_contents()
        self._seek_others()
        try:
            entry = self.ledger.commit(self._begins, self._results, meanwhile=self._look_ahead)
        except (DataError, IntegrityError):
            entry = self._commit_singly()
        self._lessons += self._results
        self._begins, self._results = [], []
        # Nothing below needs the database, so that nothing committed is left untold.
        self._answer(entry)
        self._tell(entry)

    def _commit_singly(self) -> Entry:
        """Commit one by one: what the database refuses of one result must stop no other."""
        whole = Entry()
        for result in self._results:
            try:
                whole.add(self.ledger.commit([], [result]))
            except (DataError, IntegrityError) as error:
                logger.error(
                    "The reply to message %d cannot be stored (%s): it is recorded without.",
                    result.parcel.message.pk,
                    type(error).__name__,
                )
                result.outcome = outcomes.without_reply(result.outcome)
                result.verdict = None
                whole.add(self.ledger.commit([], [result]))
        whole.add(self.ledger.commit(self._begins, []))
        return whole

    def _hear(self, said: Sequence[Word]) -> None:
        for word in said:
            match word:
                case Wanted():
                    self._wanted.append(word.parcel)
                case Begin():
                    self._begins.append(word.parcel)
                case Result():
                    self._results.append(word)

    def _try_again(self) -> None:
        """Ask once more for the begins that were locked, and at once for their end if need be."""
        now = time.monotonic() if self.lease.is_fresh else float("inf")
        if not self._kept_waiting:
            return
        self._begins += [parcel for again_at, parcel in self._kept_waiting if again_at <= now]
        self._kept_waiting = [entry for entry in self._kept_waiting if entry[0] > now]

    def _refuse_begins(self) -> None:
        """Without a fresh lease nothing is begun: nothing else fences a socket."""
        stale, self._begins = self._begins, []
        for parcel in stale:
            self.sender.permit(parcel, allowed=False)
        self._forget(stale)
        self._drop_trials(stale)
        self._unsent += [parcel for parcel in stale if parcel.begins_tried]
        if not self.lease.is_lost:
            self._give_back([parcel for parcel in stale if not parcel.begins_tried])

    def _disown(self) -> None:
        """Undo the begins that nobody acted upon, even under a lease that has run out since."""
        if self._unsent:
            self._unsent = self.ledger.disown(self._unsent)

    # By ``id``, which is an attribute: to ask a model for its ``pk`` takes two calls.
    def _forget(self, done: Iterable[Parcel]) -> None:
        self._known.difference_update([parcel.message.id for parcel in done])

    def _read_ahead(self) -> None:
        """Read what a connection is to carry next, where that asks the database for more."""
        mine = [
            parcel
            for parcel in self._wanted
            if parcel.email is None and parcel.message.id in self._known
        ]
        self._wanted = [parcel for parcel in mine if parcels.is_whole(parcel)]
        if len(self._wanted) < len(mine):
            self._read([parcel for parcel in mine if parcel not in self._wanted])

    def _look_ahead(self) -> None:
        """Read the rest of it, and render all of it: that asks the database nothing.

        So it is done while the database works on a commit, where it can be.
        """
        wanted, self._wanted = self._wanted, []
        self._unreadable.update(parcels.fill(wanted, self.using))
        self.sender.prepare()

    def _read_contents(self) -> None:
        for parcel in self._read([parcel for parcel in self._begins if parcel.email is None]):
            self._begins.remove(parcel)

    def _read(self, unread: Sequence[Parcel]) -> list[Parcel]:
        """Read contents; return those that cannot be read, which end here."""
        self._unreadable.update(parcels.fill(unread, self.using))
        return self._end_unreadable()

    def _end_unreadable(self) -> list[Parcel]:
        faulty, self._unreadable = self._unreadable, {}
        for parcel, why in faulty.items():
            self._results.append(_unreadable(parcel, why))
            self.sender.permit(parcel, allowed=False)
        return list(faulty)

    def _answer(self, entry: Entry) -> None:
        for parcel in entry.begun:
            is_in_time = self.lease.is_fresh  # the commit, or this process, may have stood still
            self.sender.permit(parcel, allowed=is_in_time)
            if not is_in_time:
                self._unsent.append(parcel)
        for parcel in entry.lost:
            self.sender.permit(parcel, allowed=False)
        self._unsent += [parcel for parcel in entry.lost if parcel.begins_tried]
        self._forget([*entry.lost, *self._unsent])
        self._drop_trials([*entry.lost, *self._unsent])
        for parcel in entry.locked:
            self._wait_for_lock(parcel)

    def _wait_for_lock(self, parcel: Parcel) -> None:
        """Try again soon: with the connection kept where that is its own, for a moment."""
        if parcel.is_named and parcel.locked_s < LOCKED_NAMED_S / 2:
            parcel.locked_s = 2 * parcel.locked_s or LOCKED_FIRST_S
            self._kept_waiting.append((time.monotonic() + parcel.locked_s, parcel))
        else:
            self.sender.permit(parcel, allowed=False)
            self._postpone(parcel)

    def _tell(self, entry: Entry) -> None:
        self._forget([result.parcel for result, _ in entry.settled])
        self._forget([result.parcel for result in entry.refused])
        self.tally.update([report.result_name(result) for result, _ in entry.settled])
        report.settled(entry.settled, str(self.lease.id))
        for result in entry.refused:
            report.refused(result)

    def _seek_others(self) -> None:
        """Note for each message whose mailer is at fault whether another could take it."""
        for result in self._results:
            if isinstance(result.outcome, MailerDown):
                parcel = result.parcel
                if result.was_stale:
                    parcel.has_other_mailer = True  # the same one, by a new connection
                    continue
                able = routes.mailers_for(parcel.message.stream, parcel.message.using)
                others = set(able) - self.circuits.unavailable() - {parcel.mailer}
                parcel.has_other_mailer = bool(others)

    def _mind_mailers(self) -> None:
        """Let the circuits learn from the last attempts, and give back what waits in vain.

        Raise what the database raises; nothing is lost by that, and the next call tries again.
        """
        while self._lessons:
            self._learn(self._lessons[0])
            del self._lessons[0]
        self._release_trials()
        for mailer in self.circuits.unavailable() - self.circuits.probing:
            self._to_give_back += self.sender.drop_waiting(mailer)
        if self._to_give_back:
            self._give_back(self._to_give_back)
            self._to_give_back = []

    def _learn(self, result: Result) -> None:
        parcel, outcome = result.parcel, result.outcome
        mailer = parcel.mailer
        if self._trials.get(mailer) is parcel:
            match None if result.was_stale else circuits.trial_shows(outcome):
                case True:
                    self.circuits.close(mailer)
                case False:
                    self.circuits.open(mailer, outcome)
                case None:
                    self.circuits.release_probe(mailer)
            del self._trials[mailer]
        elif isinstance(outcome, MailerDown) and not result.was_stale:
            if outcome.reply.code == CLOSING and self.sender.works(mailer):
                logger.warning("Mailer %s: has too many connections (421), halved.", mailer)
                self.sender.halve(mailer)
            else:
                self.circuits.open(mailer, outcome)

    def _drop_trials(self, left: Iterable[Parcel]) -> None:
        """Forget the trials whose message is not sent after all; they are given up soon after."""
        for parcel in left:
            if self._trials.get(parcel.mailer) is parcel:
                del self._trials[parcel.mailer]

    def _release_trials(self) -> None:
        for mailer in self.circuits.probing - self._trials.keys():
            self.circuits.release_probe(mailer)

    def _give_back(self, dropped: Sequence[Parcel]) -> int:
        self._forget(dropped)
        self._drop_trials(dropped)
        messages = [parcel.message for parcel in dropped]
        return claims.give_back(self.lease.id, self.using, messages)


def _unreadable(parcel: Parcel, why: Exception) -> Result:
    logger.error("The content of message %d cannot be read.", parcel.message.pk, exc_info=why)
    return Result(parcel, outcomes.classify(why, stage=Stage.RENDER))
