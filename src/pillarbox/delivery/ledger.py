"""The two verbs that surround a conversation, begin and record, committed in groups.

Writes ``begun_at`` and every state that a result leads to. A message's body is written only after
its begin is committed; the result of one message on a connection is committed no later than the
begin of the next.
"""

from __future__ import annotations

import dataclasses
import random
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from django.db import connections
from django.db.models import Q

from pillarbox import retention
from pillarbox.delivery import database, recording, verdicts
from pillarbox.delivery.clock import Clock
from pillarbox.delivery.groups import Entry, Served, are_plain, served, tried
from pillarbox.delivery.outcomes import InDoubt, PartlySent, Sent
from pillarbox.delivery.senders.base import Parcel, Result
from pillarbox.delivery.verdicts import History, Verdict
from pillarbox.models import (
    FINISHED,
    Attempt,
    Message,
    Recipient,
    State,
)

_OURS = (State.SENDING, State.IN_DOUBT, State.QUEUED)
"""Where a begun message is until its result is known, or somebody else has claimed it."""


_HELD = ("pk", "state", "drain", "begun_at", "attempts")


class Ledger:
    """The books of one drain."""

    def __init__(self, drain: uuid.UUID, using: str) -> None:
        self.drain = drain
        self.using = using
        self.clock = Clock(using)

    def commit(
        self,
        begins: Sequence[Parcel],
        results: Sequence[Result],
        *,
        meanwhile: Callable[[], None] | None = None,
    ) -> Entry:
        """Record ``results`` and begin ``begins`` in one transaction.

        Raise what the database raises. Whether anything was committed is then unknown, so nothing
        may be sent; the next call, with the same parcels and results, takes up what was.

        What is plain goes by one statement where the database has it. Anything that this leaves is
        judged in a transaction of its own, and no message is begun before all is recorded.
        ``meanwhile`` may be called, more than once even, while the database works on that one.
        """
        now = self.clock.now()
        entry = Entry()
        if recording.is_possible(self.using) and are_plain(begins, results):
            entry = self._commit_at_once(begins, results, now, meanwhile)
        begun, settled = set(entry.begun), {result for result, _ in entry.settled}
        begins = [parcel for parcel in begins if parcel not in begun]
        results = [result for result in results if result not in settled]
        if begins or results:
            entry.add(database.run(self.using, lambda: self._commit(begins, results, now)))
        for result, verdict in entry.settled:
            _apply(result.parcel.message, verdict.columns)
        for parcel in entry.begun:
            parcel.message.begun_at = parcel.begun_at
            parcel.begins_tried.clear()
        return entry

    def _commit(self, begins: Sequence[Parcel], results: Sequence[Result], now: datetime) -> Entry:
        entry = Entry()
        self.record(entry, results, now)
        self.begin(entry, begins, now)
        return entry

    def _commit_at_once(
        self,
        begins: Sequence[Parcel],
        results: Sequence[Result],
        now: datetime,
        meanwhile: Callable[[], None] | None,
    ) -> Entry:
        """Do what one statement does of it, and leave the rest."""
        sent: list[recording.SentRow] = []
        recipients: list[Served] = []
        for result in results:
            parcel = result.parcel
            result.verdict = verdict = _judge(result, now)
            key = parcel.message.id, parcel.message.begun_at
            sent.append((*key, verdict.columns["attempts"], *tried(result)))
            recipients += [
                served(parcel, address, reply) for address, (_, reply) in verdict.recipients.items()
            ]
        for parcel in begins:
            parcel.begins_tried.append(now)
        wanted = [(p.message.id, p.message.attempts, p.mailer) for p in begins]
        recorded, begun = recording.record_and_begin(
            self.drain, self.using, now, sent, recipients, wanted, meanwhile
        )
        entry = Entry()
        for result in results:
            if result.parcel.message.id in recorded:
                assert result.verdict is not None
                entry.settled.append((result, result.verdict))
                result.parcel.has_rows = True
            else:
                result.verdict = None  # it has been answered that this was not written
        for parcel in begins:
            if parcel.message.id in begun:
                parcel.begun_at = now
                entry.begun.append(parcel)
            else:
                parcel.begins_tried.remove(now)
        return entry

    def begin(self, entry: Entry, parcels: Sequence[Parcel], now: datetime) -> None:
        """Mark the parcels that are still this drain's as begun, in the caller's transaction.

        A message that was held, released and claimed again meanwhile may be here twice: one of the
        two begins, and none that was claimed before an attempt which has ended since.
        """
        if not parcels:
            return
        pks = [parcel.message.pk for parcel in parcels]
        # A verb in somebody's long transaction holds its row: it must not stall the group. By the
        # primary key alone, as MariaDB by any other index locks the rows of other drains too.
        these = Message.objects.using(self.using).filter(pk__in=sorted(pks)).order_by("pk")
        rows = database.skip_locked(these)
        unlocked = {
            pk: held
            for pk, *held in rows.values_list("pk", "state", "drain", "begun_at", "attempts")
        }
        free = {
            parcel.message.pk: parcel
            for parcel in parcels
            if self._may_begin(parcel, unlocked.get(parcel.message.pk))
        }
        for parcel in free.values():
            parcel.begins_tried.append(now)
        self._write_begins(list(free.values()), now)
        others = set(pks) - unlocked.keys()
        locked = self._waiting_for_lock(parcels, others) if others else set()
        for parcel in parcels:
            pk = parcel.message.pk
            if free.get(pk) is parcel:
                parcel.begun_at = now
                entry.begun.append(parcel)
            else:
                (entry.locked if pk in locked else entry.lost).append(parcel)

    def locked(self, parcels: Sequence[Parcel]) -> set[int]:
        """Return whose rows somebody holds that are still this drain's to begin.

        Runs in a transaction of its own, and writes nothing.
        """
        pks = {parcel.message.pk for parcel in parcels}
        if not pks:
            return set()
        these = Message.objects.using(self.using).filter(pk__in=sorted(pks)).order_by("pk")

        def work() -> set[int]:
            others = pks - set(database.skip_locked(these).values_list("pk", flat=True))
            return self._waiting_for_lock(parcels, others) if others else set()

        return database.run(self.using, work)

    def _write_begins(self, parcels: Sequence[Parcel], now: datetime) -> None:
        """Name the mailer too, so that a worker's death leaves it known: an UPDATE for each."""
        by_mailer: dict[str, list[int]] = {}
        for parcel in parcels:
            by_mailer.setdefault(parcel.mailer, []).append(parcel.message.pk)
        for mailer, pks in by_mailer.items():
            rows = Message.objects.using(self.using).filter(pk__in=sorted(pks))
            rows.update(begun_at=now, mailer=mailer)

    def _may_begin(self, parcel: Parcel, held: list[Any] | None) -> bool:
        if held is None:
            return False
        state, drain, begun_at, attempts = held
        return (
            state == State.SENDING
            and drain == self.drain
            and (begun_at is None or begun_at in parcel.begins_tried)
            and attempts == parcel.message.attempts
        )

    def _waiting_for_lock(self, parcels: Sequence[Parcel], others: set[int]) -> set[int]:
        """Return which of the locked rows are still this drain's to begin."""
        unbegun = Q(begun_at=None)
        for parcel in parcels:
            if parcel.begins_tried:
                unbegun |= Q(pk=parcel.message.pk, begun_at__in=parcel.begins_tried)
        mine = Message.objects.using(self.using).filter(
            unbegun, pk__in=others, state=State.SENDING, drain=self.drain
        )
        return set(mine.values_list("pk", flat=True))

    def record(self, entry: Entry, results: Sequence[Result], now: datetime) -> None:
        """Write what became of messages that are still this drain's, in the caller's transaction.

        In doubt, or queued again and not claimed since, counts as this drain's: a known result is
        never thrown away. So does in doubt and then held by a person, see `_late`. What an earlier
        call recorded, unheard, is settled and not written again.
        """
        if not results:
            return
        recorded = self._recorded(results)
        mine = self._mine(results)
        new: list[tuple[Result, Verdict]] = []
        for result in results:
            state = mine.get(result)
            if result in recorded:
                assert result.verdict is not None
                entry.settled.append((result, result.verdict))
            elif state is not None:
                verdict = result.verdict or _judge(result, now)
                is_late = state is not State.SENDING
                result.verdict = _late(result, state, verdict) if is_late else verdict
                new.append((result, result.verdict))
            else:
                entry.refused.append(result)
        entry.settled += new
        self._write_columns(new)
        self._write_recipients(new, now)
        Attempt.objects.using(self.using).bulk_create(
            Attempt(
                message=result.parcel.message,
                drain=self.drain,
                result=verdicts.RESULTS[type(result.outcome)],
                **tried(result)._asdict(),
            )
            for result, _ in new
        )
        self._erase(new)

    def _recorded(self, results: Sequence[Result]) -> set[Result]:
        """Return those that an earlier commit recorded without its answer reaching us."""
        tried = [result for result in results if result.verdict is not None]
        if not tried:
            return set()
        rows = Attempt.objects.using(self.using).filter(
            message__in=[result.parcel.message.pk for result in tried], drain=self.drain
        )
        known = set(rows.values_list("message_id", "started_at"))
        return {it for it in tried if (it.parcel.message.pk, it.started_at) in known}

    def _mine(self, results: Sequence[Result]) -> dict[Result, State]:
        """Lock the messages; return the results that are of this drain's begins, with their states.

        Of one message there may be two: a late one, and that of the resend.
        """
        pks = sorted({it.parcel.message.pk for it in results})
        rows = Message.objects.using(self.using).filter(pk__in=pks).order_by("pk")
        if connections[self.using].features.has_select_for_update:
            rows = rows.select_for_update()
        columns = rows.values_list("pk", "state", "drain", "begun_at")
        now = {pk: (State(state), held) for pk, state, *held in columns}
        mine = {}
        for result in results:
            message = result.parcel.message
            state, held = now.get(message.pk, (None, []))
            if state is None or held != [self.drain, message.begun_at]:
                continue
            if state in _OURS or (state is State.HELD and message.begun_at is not None):
                mine[result] = state
        return mine

    def disown(self, parcels: Sequence[Parcel]) -> list[Parcel]:
        """Queue again what was begun, or perhaps begun, and certainly not written to anyone.

        Whatever recovery has made of it meanwhile, as long as nobody has claimed it since. Runs in
        a transaction of its own. Return those whose rows are locked: to be tried again.
        """
        moments = {
            parcel.message.pk: {*parcel.begins_tried, parcel.message.begun_at} - {None}
            for parcel in parcels
        }
        these = Message.objects.using(self.using).filter(pk__in=sorted(moments)).order_by("pk")
        ours = these.filter(drain=self.drain, state__in=_OURS, begun_at__isnull=False)

        def work() -> set[int]:
            rows = database.skip_locked(these).values_list("pk", "state", "drain", "begun_at")
            free = [
                pk
                for pk, state, drain, begun_at in rows
                if drain == self.drain and state in _OURS and begun_at in moments[pk]
            ]
            Message.objects.using(self.using).filter(pk__in=free).update(
                state=State.QUEUED, drain=None, begun_at=None
            )
            left = ours.values_list("pk", "begun_at")
            return {pk for pk, begun_at in left if begun_at in moments[pk]}

        left = database.run(self.using, work) if parcels else set()
        return [parcel for parcel in parcels if parcel.message.pk in left]

    def _write_columns(self, settled: Iterable[tuple[Result, Verdict]]) -> None:
        # Most results of a group are alike ("sent", first attempt): one statement for each kind.
        alike: dict[tuple[tuple[str, Any], ...], list[int]] = {}
        for result, verdict in settled:
            columns = {**verdict.columns, "mailer": result.parcel.mailer}
            alike.setdefault(tuple(columns.items()), []).append(result.parcel.message.pk)
        for columns_items, pks in alike.items():
            rows = Message.objects.using(self.using).filter(pk__in=sorted(pks))
            rows.update(**dict(columns_items))

    def _write_recipients(self, settled: Iterable[tuple[Result, Verdict]], now: datetime) -> None:
        new: list[Recipient] = []
        for result, verdict in settled:
            same = _put_off(result) if result.parcel.has_rows else frozenset()
            rows = [
                Recipient(
                    state=state, updated_at=now, **served(result.parcel, address, reply)._asdict()
                )
                for address, (state, reply) in verdict.recipients.items()
                if address not in same
            ]
            if result.parcel.has_rows:
                self._delete_recipients(result.parcel, [row.address for row in rows])
            new += rows
            result.parcel.has_rows |= bool(rows)
        Recipient.objects.using(self.using).bulk_create(new, batch_size=1000)

    def _delete_recipients(self, parcel: Parcel, addresses: Sequence[str]) -> None:
        mine = Recipient.objects.using(self.using).filter(message_id=parcel.message.pk)
        for start in range(0, len(addresses), 1000):  # SQLite takes 32,766 parameters
            mine.filter(address__in=addresses[start : start + 1000]).delete()

    def _erase(self, settled: Iterable[tuple[Result, Verdict]]) -> None:
        finished = []
        for result, verdict in settled:
            message = result.parcel.message
            if message.sensitive and "finished_at" in verdict.columns:
                finished.append(message)
        retention.erase(self.using, finished)


def _judge(result: Result, now: datetime) -> Verdict:
    parcel, outcome = result.parcel, result.outcome
    if isinstance(outcome, Sent):
        return verdicts.sent_to_all(
            outcome, parcel.message, parcel.kinds, now, some_failed=parcel.some_failed
        )
    history = History(parcel.some_sent, parcel.some_failed, parcel.some_in_doubt)
    jitter = random.uniform(-1, 1)
    return verdicts.judge(
        outcome,
        parcel.message,
        list(parcel.kinds),
        history,
        now,
        jitter,
        has_other_mailer=parcel.has_other_mailer,
    )


def _put_off(result: Result) -> frozenset[str]:
    """Return those whose turn has not come: their rows say so already.

    Without this a list of n recipients that goes in k parts would be written n·k times.
    """
    outcome = result.outcome
    return outcome.put_off if isinstance(outcome, PartlySent) else frozenset()


def _late(result: Result, state: State, verdict: Verdict) -> Verdict:
    """Return what a result makes of a message that had been found in doubt before it came.

    What ends the message ends it. A doubt says nothing new: the policy or a person has spoken. Nor
    does a refusal for now undo a person's word: what is held stays held, though in doubt no more.
    """
    if isinstance(result.outcome, InDoubt):
        return dataclasses.replace(verdict, columns={"state": state}, signal=None)
    if state is State.HELD and verdict.state not in FINISHED:
        return dataclasses.replace(
            verdict, columns={**verdict.columns, "state": state}, signal=None
        )
    return verdict


def _apply(message: Message, columns: Any) -> None:
    message.__dict__.update(columns)  # plain columns, and no foreign key's
