"""All the sockets in the drain's own thread, over connections that Django's backend opened.

`SMTPSender.collect` reads and writes whatever is ready, and returns what the drain has to commit.
A parcel's content is asked for (`Wanted`) while the one before it is under way, its envelope goes
behind that one's body, and its Begin comes with that one's Result: one commit, then one write.
Nothing here blocks but the wait in `collect`. The order on a connection is in ``pipeline``.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator

from pillarbox.delivery import outcomes
from pillarbox.delivery.outcomes import Outcome, Reply, Stage, replies
from pillarbox.delivery.senders.base import Begin, Parcel, Result, Wanted, Word
from pillarbox.delivery.senders.connections import pool, server_of
from pillarbox.delivery.senders.events import Ended, Event, Named, Returned
from pillarbox.delivery.senders.laned import Laned
from pillarbox.delivery.senders.lanes import Lane, Worker
from pillarbox.delivery.senders.letters import Letter
from pillarbox.delivery.senders.opening import Opener, Opening
from pillarbox.delivery.senders.sockets import Sockets
from pillarbox.delivery.senders.talks import Talk

logger = logging.getLogger("pillarbox.delivery")

LINGER_S = 0.001
"""How long the first word waits for those of other connections, so that they share its commit."""
SLOW_S = 1.0
"""From what silence after a dot on no other message is put behind it: others may be faster."""
LOOK_EVERY_S = 0.05
"""How often the connections are looked over for silent servers, beside the moments they expire."""
AHEAD_MAX_BYTES = 256 * 1024
"""Behind a larger message none is prepared: its round trip is not what takes long."""
RESET_PATIENCE_S = 0.5
"""How long the end of a drain waits for the reply to a last RSET."""
BROKEN_OFF = "The conversation was broken off."
"""What stands for a reply where this side has hung up."""


class SMTPSender(Laned):
    """`Sender` for Pillarbox's SMTP backend; one thread alone may use it, but for `poke`."""

    def __init__(self, connections: int, *, elsewhere: Callable[[], int] = lambda: 0) -> None:
        super().__init__(connections, elsewhere)
        self._said: deque[Word] = deque()
        self._asking: dict[Parcel, tuple[Talk, Letter]] = {}
        self._slow: set[str] = set()
        """Mailers whose last message took long between its dot and the reply."""
        self._openings: dict[Opening, Worker] = {}
        self._opener = Opener()
        self._sockets = Sockets(self._opener)
        self._look_at = time.monotonic()
        self._is_poked = self._is_closed = self._is_broken_off = False

    def poke(self) -> None:
        """Have `collect` return soon; may be called from any thread."""
        self._opener.poke()

    def collect(self, timeout_s: float) -> list[Word]:
        """Let the sockets work until there is a word, up to ``timeout_s``, and return all of them.

        Where one word is there, others that are about to come are waited for, 1 ms at most.
        """
        if not self._said:  # else a fault may be among it, to be judged first
            for lane in self._lanes.values():
                lane.is_suspect = False
        self._tend()
        self._poll(0.0)
        until = time.monotonic() + timeout_s
        while not self._said and not self._is_poked and (left := until - time.monotonic()) > 0:
            self._poll(left)
        until = time.monotonic() + LINGER_S
        while self._said and self._is_awaiting and (left := until - time.monotonic()) > 0:
            self._poll(left)
        self._is_poked = False
        said, self._said = list(self._said), deque()
        for word in said:
            if isinstance(word, Result):
                self._lane(word.parcel.mailer).settle(word.parcel)
        return said

    def prepare(self) -> None:
        """Render what has been read and goes next by a connection."""
        for talk in self._every_talk():
            self._is_ready(talk)

    def permit(self, parcel: Parcel, *, allowed: bool) -> None:
        """Write the parcel's body, the next one's envelope behind it; or drop the parcel."""
        if (asked := self._asking.pop(parcel, None)) is not None:
            talk, letter = asked
            if allowed:
                return self._write(talk, letter)
            talk.pipeline.abandon(letter)
            self._see(talk, [])
        elif not self._forget_next(parcel):
            return
        self._lane(parcel.mailer).settle(parcel)

    def _write(self, talk: Talk, letter: Letter) -> None:
        if self._is_broken_off and not talk.pipeline.is_over:
            letter.lost = letter.cut_off(Reply(text=BROKEN_OFF))
        if events := talk.write(letter):
            self._see(talk, events)  # it was lost meanwhile
        if talk.is_attached:
            if talk.pipeline.can_name and self._is_ready(talk):
                talk.name()
            self._step(talk, talk.push)

    def _forget_next(self, parcel: Parcel) -> bool:
        for talk in self._talks(self._lane(parcel.mailer)):
            if talk.next is parcel:
                talk.drop_next()
                return True
        return False

    def drop_waiting(
        self, mailer: str | None = None, *, keep_connecting: bool = False
    ) -> list[Parcel]:
        """Take back what no server has said a word of, of one mailer or of all."""
        lanes = [lane for lane in self._lanes.values() if mailer in (None, lane.mailer)]
        return [parcel for lane in lanes for parcel in self._empty(lane, keep_connecting)]

    def drop_stuck(self) -> list[Parcel]:
        """Take back what waits behind conversations that have gone on for 5 s, all of them."""
        stuck = [lane for lane in self._lanes.values() if lane.is_stuck]
        return [parcel for lane in stuck for parcel in self._empty(lane, True)]

    def _empty(self, lane: Lane, keep_connecting: bool) -> list[Parcel]:
        for talk in self._talks(lane):
            if talk.pipeline.letters or not keep_connecting:  # else it has been taken up
                self._take_back(lane, talk)
        return lane.empty(keep_connecting=keep_connecting)

    def _take_back(self, lane: Lane, talk: Talk) -> None:
        """Have the parcels wait again that stand behind another, or before their envelope."""
        if (parcel := talk.drop_next()) is not None:
            lane.put_back(parcel)
        if (letter := talk.pipeline.take_back()) is not None:
            lane.put_back(letter.parcel)

    def works(self, mailer: str) -> bool:
        """Whether a connection to the mailer is in conversation, or was a moment ago."""
        lane = self._lanes.get(mailer)
        talks = self._talks(lane) if lane is not None else []
        return lane is not None and lane.works(talk.connection for talk in talks if talk.begun)

    def talking(self) -> list[Parcel]:
        """Return the parcels whose bodies are, or are being, written."""
        return [parcel for talk in self._every_talk() for parcel in talk.begun]

    def break_off(self) -> None:
        """Hang up on every server; each letter under way ends in a Result at once."""
        self._is_broken_off = True
        for talk in self._every_talk():
            self._see(talk, talk.pipeline.lose(Reply(text=BROKEN_OFF)))

    def close(self) -> None:
        """Keep the connections that are between two messages; hang up on the others."""
        self._is_closed = True
        until = time.monotonic() + RESET_PATIENCE_S
        while self._is_resetting and (left := until - time.monotonic()) > 0:
            self._poll(left)
        for talk in self._every_talk():
            if talk.pipeline.is_idle:
                self._release(talk)
            else:
                self._hang_up(talk)
        self._asking.clear()
        self._opener.close()
        self._sockets.close()

    @property
    def _is_resetting(self) -> bool:
        lines = (talk.pipeline for talk in self._every_talk())
        return any(line.awaited and not line.letters for line in lines)

    @property
    def _is_awaiting(self) -> bool:
        return any(talk.pipeline.awaited is not None for talk in self._every_talk())

    def _every_talk(self) -> Iterator[Talk]:
        for lane in self._lanes.values():
            yield from self._talks(lane)

    def _talks(self, lane: Lane) -> list[Talk]:
        return [worker for worker in lane.workers if isinstance(worker, Talk)]

    def _poll(self, timeout_s: float) -> None:
        """Wait for sockets, once; let those that are ready work, and give up who is late."""
        ready = self._sockets.ready(min(timeout_s, max(0.0, self._look_at - time.monotonic())))
        for each in ready:
            if isinstance(each, Opener):
                ended = each.ended()
                self._is_poked |= not ended
                for opening in ended:
                    self._opened(opening)
            elif each.is_attached:
                self._step(each, each.pull)
                if each.is_attached and each.pipeline.has_output:
                    self._step(each, each.push)
        if self._look() or ready:
            self._tend()

    def _look(self) -> bool:
        """Give up the servers that are late, and note the slow ones, where it is time for that."""
        now = time.monotonic()
        if now < self._look_at:
            return False
        self._look_at = now + LOOK_EVERY_S
        for talk in list(self._every_talk()):
            if (deadline := talk.deadline) is None:
                continue
            if deadline <= now:
                self._see(talk, talk.time_out())
                continue
            self._look_at = min(self._look_at, deadline)
            if talk.dot_waits_s > SLOW_S:
                self._slow.add(talk.mailer)
                self._take_back(self._lane(talk.mailer), talk)
        return True

    def _step(self, talk: Talk, step: Callable[[], list[Event]]) -> None:
        """Read or write; an error that nobody foresaw ends this conversation alone."""
        try:
            events = step()
        except Exception as error:
            logger.exception("A connection to %s broke for an unknown reason.", talk.mailer)
            events = talk.lose(error)
        self._see(talk, events)

    def _see(self, talk: Talk, events: list[Event]) -> None:
        """Hand on what has happened on a connection, and let go of one that is over."""
        for event in events:
            parcel = event.letter.parcel
            match event:
                case Named():
                    self._asking[parcel] = (talk, event.letter)
                    parcel.is_named = True
                    self._said.append(Begin(parcel))
                case Ended():
                    self._end(talk, event.letter, event.outcome)
                case Returned():
                    self._lane(talk.mailer).put_back(parcel)
        if not talk.pipeline.is_over:
            self._sockets.watch(talk)
        elif talk.is_attached:
            self._hang_up(talk)
            # One that ends unused is none. To try the next at once might go on for ever.
            if talk.connection.is_new and not self._is_broken_off:
                outcome = replies.refused(talk.pipeline.last_words, stage=Stage.OPEN)
                self._failed(self._lane(talk.mailer), Opening(talk.mailer, outcome=outcome))

    def _end(self, talk: Talk, letter: Letter, outcome: Outcome) -> None:
        started_at, took_s = talk.took(letter)
        self._said.append(Result(letter.parcel, outcome, started_at, took_s))
        if outcome.stage is Stage.DOT and took_s < SLOW_S:
            self._slow.discard(talk.mailer)

    def _detach(self, talk: Talk) -> None:
        lane = self._lane(talk.mailer)
        self._sockets.remove(talk)
        lane.workers.discard(talk)
        if (parcel := talk.drop_next()) is not None:
            lane.put_back(parcel)

    def _hang_up(self, talk: Talk) -> None:
        self._detach(talk)
        talk.connection.is_usable = False
        talk.wire.close()

    def _release(self, talk: Talk) -> None:
        """Have an idle connection kept for others, or told QUIT where it is worn."""
        self._detach(talk)
        talk.wire.release()
        if pool.keeps(talk.connection):
            pool.give_back(talk.connection)
        else:
            self._opener.dismiss(talk.connection)

    def _depth(self, mailer: str) -> int:
        """One more where the next envelope goes behind a body: that one is prepared meanwhile."""
        return 2 if mailer in self._slow else 3

    def _staff(self, lane: Lane) -> None:
        while not self._is_closed and self._may_grow(lane):
            self._open(lane)

    def _open(self, lane: Lane) -> None:
        worker = Worker()
        worker.is_connecting = True
        lane.workers.add(worker)
        self._openings[self._opener.open(lane.mailer)] = worker

    def _opened(self, opening: Opening) -> None:
        lane = self._lane(opening.mailer)
        lane.workers.discard(self._openings.pop(opening))
        if opening.connection is None:
            self._failed(lane, opening)
            return
        lane.has_opened = True
        talk = Talk(lane.mailer, opening.connection)
        self._sockets.add(talk)
        lane.workers.add(talk)
        self._see(talk, talk.pipeline.receive(talk.wire.unread()))

    def _failed(self, lane: Lane, opening: Opening) -> None:
        """Let the parcel that was to go first tell the drain what is wrong with the mailer."""
        assert opening.outcome is not None
        if (parcel := lane.take()) is None:
            return
        lane.done(parcel)
        lane.has_opened, lane.is_suspect = False, True
        parcel.server = server_of(lane.mailer)
        self._said.append(Result(parcel, opening.outcome, opening.started_at, opening.took_s))

    def _tend(self) -> None:
        """Give every connection what it can take, and open more where parcels wait."""
        if self._is_closed or self._is_broken_off:
            return
        for lane in list(self._lanes.values()):
            part = self._part(lane.mailer)
            lane.count_hungry()
            for talk in self._talks(lane):
                if talk.next is None or talk.next.email is not None:  # else it is being read
                    self._feed(lane, talk, part)
                talk.is_proven = False
            self._staff(lane)

    def _feed(self, lane: Lane, talk: Talk, part: int) -> None:
        """Take, prepare and name what is to go next by a connection, as far as that can be."""
        while talk.is_attached and (talk.next is not None or self._take(lane, talk, part)):
            if talk.next is not None and talk.next.email is None:
                return  # the drain is reading it
            if not self._is_ready(talk):
                continue
            if not talk.pipeline.can_name:
                return
            talk.name()
            self._step(talk, talk.push)

    def _is_ready(self, talk: Talk) -> bool:
        """Whether the next letter can be named: it is composed where its content is there."""
        if talk.letter is not None:
            return True
        return talk.next is not None and talk.next.email is not None and self._compose(talk)

    def _compose(self, talk: Talk) -> bool:
        try:
            talk.compose()
        except Exception as error:  # noqa: BLE001 - a content of any kind fails alone
            outcome = outcomes.classify(error, stage=Stage.RENDER)
            if (parcel := talk.drop_next()) is not None:
                self._said.append(Result(parcel, outcome))
            return False
        return True

    def _take(self, lane: Lane, talk: Talk, part: int) -> bool:
        """Take the parcel that is to go next by a connection, if one may."""
        if not self._may_take(lane, talk, part):
            return False
        if lane.is_shared:  # else every stream may have all the connections
            lane.count_carried(but=talk)
        if (parcel := lane.take(part)) is None:
            return False
        lane.hungry -= not talk.pipeline.letters
        talk.next = parcel
        parcel.server = talk.connection.server
        if parcel.email is None:
            self._said.append(Wanted(parcel))
        return True

    def _may_take(self, lane: Lane, talk: Talk, part: int) -> bool:
        if not lane.waiting:
            if talk.pipeline.is_idle and len(lane.workers) > part:
                self._release(talk)
            return False
        if talk.pipeline.letters:
            return self._may_look_ahead(lane, talk, part)
        if not talk.pipeline.is_idle:
            return talk.pipeline.can_name
        if talk.connection.is_worn or len(lane.workers) > part:
            self._release(talk)
            return False
        if not (talk.is_proven or talk.connection.is_fresh):
            self._release(talk)  # and so probed, in a thread of its own
            self._open(lane)
            return False
        return True

    def _may_look_ahead(self, lane: Lane, talk: Talk, part: int) -> bool:
        """Whether a parcel may stand behind the one under way: no other connection wants it."""
        if not talk.pipeline.pipelining or lane.mailer in self._slow or talk.connection.is_worn:
            return False
        if not lane.has_enough or len(lane.workers) > part or talk.dot_waits_s > SLOW_S:
            return False
        return all(letter.size_bytes <= AHEAD_MAX_BYTES for letter in talk.pipeline.letters)
