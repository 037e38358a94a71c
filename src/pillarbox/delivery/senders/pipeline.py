"""The order of things on one SMTP connection: octets in, octets out, and events; no sockets.

With PIPELINING (RFC 2920) a message takes one round trip. Its envelope leaves behind the body of
the one before it, and its own body once the drain has begun it::

    we      MAIL 1  RCPT 1  DATA 1
    server                          250 250 354
    we      body 1  .  MAIL 2  RCPT 2  DATA 2           after begin 1
    server                          250 (1)  250 250 354
    we      body 2  .  MAIL 3 …                         after record 1 and begin 2, one commit

Without it every command waits for the reply to the one before it, the next MAIL for the dot's.

What RFC 2920 3.1 leaves to the client: a 354 though every recipient was refused is ended with a
lone dot. A 354 with accepted recipients for a message that must not be sent ends the connection
without a dot, as a lone one would deliver an empty mail. What the server had not said a word of
when it hung up goes back unharmed where it stood behind another message: none of it was begun.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from pillarbox.delivery.outcomes import Outcome, Reply, Stage, replies
from pillarbox.delivery.senders.answers import Answers, Ask
from pillarbox.delivery.senders.events import Ended, Event, Named, Returned
from pillarbox.delivery.senders.letters import Letter

GROUP_MAX = 100
"""Recipients named before their replies are read; RFC 5321 4.5.3.1.8 has servers take 100."""
BLOCK_BYTES = 64 * 1024
"""The most that is written at once; the fence is asked before each."""


_STAGES = {
    Ask.MAIL: Stage.MAIL,
    Ask.RCPT: Stage.RCPT,
    Ask.DATA: Stage.DATA,
    Ask.LONE_DOT: Stage.MAIL,  # what the letter waits for is still the reply to its MAIL
    Ask.RSET: Stage.MAIL,
}


class Pipeline:
    """One connection, after EHLO; ``is_used`` says that it has carried messages before."""

    def __init__(self, *, pipelining: bool, is_used: bool = False) -> None:
        self.pipelining = pipelining
        self.is_over = False
        """Nothing can follow: the connection is to be closed, without a word."""
        self.last_words = Reply()
        """What ended it, where nobody had asked."""
        self.letters: deque[Letter] = deque()
        """The letter under way and, behind its dot, the next."""
        self.written = 0
        """How many octets have been handed over."""
        self._tried = 0
        self._queued = 0
        self._out: deque[bytes | memoryview] = deque()
        self._asked: deque[tuple[Ask, Letter | None, str]] = deque()
        self.answers = Answers()
        self._is_used = is_used
        self._is_spent = False

    @property
    def has_output(self) -> bool:
        """Whether anything waits to be written."""
        return bool(self._out) and not self.is_over

    def block(self, limit_bytes: int = BLOCK_BYTES) -> bytes | memoryview:
        """Return what is to be written next: a body's end and the envelope behind it as one."""
        if self._queued - self.written <= limit_bytes:
            return self._out[0] if len(self._out) == 1 else b"".join(self._out)
        first = memoryview(self._out[0])
        if len(first) >= limit_bytes:
            return first[:limit_bytes]
        parts, room = [], limit_bytes
        for part in self._out:
            parts.append(part[:room])
            room -= len(parts[-1])
            if not room:
                break
        return b"".join(parts)

    def wrote(self, size_bytes: int) -> bool:
        """Note that so much of the block has been handed over; return whether more waits."""
        self.written += size_bytes
        if self.written == self._queued:
            self._out.clear()
            return False
        while size_bytes:
            first = memoryview(self._out.popleft())
            if len(first) > size_bytes:
                self._out.appendleft(first[size_bytes:])
            size_bytes -= min(size_bytes, len(first))
        return True

    def trying(self, size_bytes: int) -> None:
        """Note that so much may leave even where the write is not reported as done (TLS)."""
        self._tried = max(self._tried, self.written + size_bytes)

    @property
    def writing(self) -> Letter | None:
        """The letter whose body is in the next block."""
        letter = self.letters[0] if self.letters else None
        if letter is None or letter.body_until is None or self.written >= letter.body_until:
            return None
        return letter

    @property
    def awaited(self) -> Ask | None:
        """What the next reply is for; None where the server owes none."""
        return self._asked[0][0] if self._asked else None

    @property
    def is_idle(self) -> bool:
        """Whether there is no letter and no reply to come."""
        return not (self.letters or self._asked or self.is_over)

    @property
    def can_name(self) -> bool:
        """Whether a letter's envelope may be written now."""
        if self.is_over or self._is_spent:
            return False
        if not self.letters:
            return self.pipelining or not self._asked
        return self.pipelining and len(self.letters) == 1 and self.letters[0].body_from is not None

    def name(self, letter: Letter) -> None:
        """Write the envelope: all of it where there is PIPELINING, else its first command."""
        self.letters.append(letter)
        if self.pipelining and len(letter.rcpts) == 1:
            self._name_at_once(letter)
            return
        self._ask(Ask.MAIL, letter.mail, letter)
        if self.pipelining:
            self._name_recipients(letter)

    def _name_at_once(self, letter: Letter) -> None:
        """Write the envelope of one recipient, as most have, in one piece."""
        ((key, command),) = letter.rcpts
        self._put(b"%b%bDATA\r\n" % (letter.mail, command))
        self._asked += ((Ask.MAIL, letter, ""), (Ask.RCPT, letter, key), (Ask.DATA, letter, ""))
        letter.named, letter.unanswered = 1, 3

    def _name_recipients(self, letter: Letter) -> None:
        group = letter.rcpts[letter.named : letter.named + (GROUP_MAX if self.pipelining else 1)]
        letter.named += len(group)
        for key, command in group:
            self._ask(Ask.RCPT, command, letter, key)
        if self.pipelining and letter.named == len(letter.rcpts):
            self._ask(Ask.DATA, b"DATA\r\n", letter)

    def write(self, letter: Letter) -> list[Event]:
        """Write the body of a letter that was `Named`: it is begun."""
        letter.is_asking = False
        if letter.lost is not None:
            return self._end(letter, letter.lost)
        letter.body_from = self._queued
        self._put(letter.body)
        letter.body, letter.body_until = b"", self._queued
        self._asked.append((Ask.DOT, letter, ""))
        letter.unanswered += 1
        return []

    def abandon(self, letter: Letter) -> None:
        """Do not send a letter that was `Named`: the connection ends without a dot."""
        letter.is_asking = False
        self._drop(letter)
        self.is_over = True

    def take_back(self) -> Letter | None:
        """Return the letter behind the one under way, if there is one, and forget it.

        Its envelope has been written, so that nothing can follow the one under way.
        """
        if len(self.letters) < 2 or self.is_over:
            return None
        self._is_spent = True
        return self.letters.pop()

    def _ask(self, ask: Ask, command: bytes, letter: Letter | None, key: str = "") -> None:
        self._put(command)
        self._asked.append((ask, letter, key))
        if letter is not None:
            letter.unanswered += 1

    def _put(self, octets: bytes) -> None:
        self._queued += len(octets)
        self._out.append(octets)

    def receive(self, octets: bytes) -> list[Event]:
        """Take what the server said."""
        events: list[Event] = []
        for reply in self.answers.take(octets):
            if self.is_over:
                break
            events += self._hear(reply)
        return events

    def _hear(self, reply: Reply) -> Sequence[Event]:
        if not self._asked:
            self.last_words = reply
            return self._unasked(reply)
        ask, letter, key = self._asked.popleft()
        if letter is None:
            return self._hear_of_none(ask, reply)
        letter.unanswered -= 1
        letter.has_heard = True
        if ask is Ask.DOT:
            return self._hear_dot(letter, reply)
        if ask is Ask.RCPT:
            # Nearly every one: others have been asked for, or DATA, and nobody was refused.
            if reply.code == 250 and letter.unanswered and not (letter.refusal or letter.declined):
                letter.agreed[key] = reply
                return ()
        elif ask is Ask.MAIL and reply.code == 250 and letter.unanswered:
            return ()
        if ask is Ask.DATA:
            events = self._hear_data(letter, reply)
        elif ask is Ask.RCPT:
            events = self._hear_rcpt(letter, key, reply)
        else:
            events = self._hear_mail(letter, reply)
        if not events and not letter.unanswered and not self.is_over and letter in self.letters:
            events = self._go_on(letter)
        return events

    def _hear_of_none(self, ask: Ask, reply: Reply) -> list[Event]:
        """Take the reply to what is no letter's any more: a lone dot, or RSET."""
        self.is_over = not replies.is_refusal(reply) and not replies.is_positive(reply)
        if ask is Ask.RSET and reply.code != 250:
            self.is_over = True
        self.is_over |= reply.code == replies.CLOSING
        return self._return_the_rest() if self.is_over else []

    def _unasked(self, reply: Reply) -> list[Event]:
        """End a connection whose server speaks out of turn, as with a 421 to one that is idle."""
        events: list[Event] = []
        if self.letters:
            events = self._lose(self.letters[0], self.letters[0].refused(reply, Stage.DATA))
        return self._over(events)

    def _hear_mail(self, letter: Letter, reply: Reply) -> list[Event]:
        if reply.code == replies.CLOSING and self._is_used:
            return self._over([])  # a worn connection ends politely: a new one is the answer
        if replies.is_positive(reply):
            return []
        if not _is_in_step(reply):
            return self._over(self._end(letter, letter.refused(reply, Stage.MAIL)))
        letter.refusal = (reply, Stage.MAIL)
        return []

    def _hear_rcpt(self, letter: Letter, key: str, reply: Reply) -> list[Event]:
        if letter.refusal is not None:
            if replies.is_positive(reply):
                letter.agreed[key] = reply  # so that a 354 is not ended with a lone dot
            is_in_step = _is_in_step(reply) or replies.is_positive(reply)
            if not is_in_step:
                return self._over(self._end(letter, letter.refused(*letter.refusal)))
            return []
        if letter.take_rcpt(key, reply):
            return []
        return self._over(self._end(letter, letter.refused(reply, Stage.RCPT)))

    def _hear_data(self, letter: Letter, reply: Reply) -> list[Event]:
        if reply.code is not None and reply.code // 100 == 3:
            letter.is_awaited = True
            return []
        if not _is_in_step(reply):
            return self._over(self._end(letter, self._at_data(letter, reply)))
        if letter.agreed and letter.refusal is None:
            letter.refusal = (reply, Stage.DATA)
        return []

    def _at_data(self, letter: Letter, reply: Reply) -> Outcome:
        """Return what a DATA makes of a letter that ends the connection, too."""
        if letter.refusal is not None:
            return letter.refused(*letter.refusal)
        if not letter.agreed:
            return replies.all_refused(letter.declined)
        return letter.refused(reply, Stage.DATA)

    def _hear_dot(self, letter: Letter, reply: Reply) -> list[Event]:
        if not self._has_left(letter):
            # It refused in the middle. Without the dot nothing is in doubt.
            return self._over(self._end(letter, letter.refused(reply, Stage.BODY)))
        if replies.is_positive(reply):
            events = self._end(letter, letter.accepted(reply))
        else:
            events = self._end(letter, letter.refused(reply, Stage.DOT))
            if not _is_in_step(reply) or self._is_written_late(letter):
                return self._over(events)
            if not self.letters and not self._is_spent:
                self._reset()
        return self._over(events) if self._is_spent else events

    def _is_written_late(self, letter: Letter) -> bool:
        """Whether the reply came while some of the letter was not reported as written (TLS)."""
        return letter.body_until is not None and self.written < letter.body_until

    def _has_left(self, letter: Letter) -> bool:
        assert letter.body_until is not None
        return max(self.written, self._tried) >= letter.body_until

    def _go_on(self, letter: Letter) -> list[Event]:
        """Decide what follows, now that every command has its reply."""
        if letter.is_awaited:
            return self._on_354(letter)
        if letter.refusal is not None:
            return self._refuse(letter, letter.refused(*letter.refusal))
        if letter.full and letter.named < len(letter.rcpts):
            letter.put_off_the_rest()
        if letter.named < len(letter.rcpts):
            self._name_recipients(letter)
            return []
        if not letter.agreed:
            return self._refuse(letter, replies.all_refused(letter.declined))
        self._ask(Ask.DATA, b"DATA\r\n", letter)
        return []

    def _on_354(self, letter: Letter) -> list[Event]:
        if letter.refusal is None and letter.agreed:
            letter.is_asking = True
            return [Named(letter)]
        if letter.agreed:  # MAIL was refused and yet a recipient taken
            return self._over(self._end(letter, letter.cut_off(Reply())))
        outcome = replies.all_refused(letter.declined) if letter.refusal is None else None
        events = self._end(letter, outcome or letter.cut_off(Reply()))
        self._ask(Ask.LONE_DOT, b".\r\n", None)
        return events

    def _refuse(self, letter: Letter, outcome: Outcome) -> list[Event]:
        events = self._end(letter, outcome)
        self._reset()
        return events

    def _reset(self) -> None:
        self._ask(Ask.RSET, b"RSET\r\n", None)

    def lose(self, why: Reply, *, has_hung_up: bool = False) -> list[Event]:
        """End the connection: it broke, or is broken off, or its server kept silent."""
        if self.is_over:
            return []
        self.last_words = why
        events: list[Event] = []
        if self.letters:
            first = self.letters[0]
            if has_hung_up and self._is_used and not first.has_heard:
                return self._over([])
            first.stage = self._stage(first)
            events = self._lose(first, first.cut_off(why))
        return self._over(events)

    def _stage(self, letter: Letter) -> Stage:
        """Return the step that is under way for the first letter."""
        if letter.body_until is not None:
            return Stage.DOT if self._has_left(letter) else Stage.BODY
        return _STAGES[self._asked[0][0]] if self._asked else Stage.DATA

    def _lose(self, letter: Letter, outcome: Outcome) -> list[Event]:
        """End a letter, or have its end wait where its begin is being asked for."""
        if letter.is_asking:
            letter.lost = letter.lost or outcome
            return []
        return self._end(letter, outcome)

    def _end(self, letter: Letter, outcome: Outcome) -> list[Event]:
        self._drop(letter)
        self._is_used = True
        return [Ended(letter, outcome)]

    def _drop(self, letter: Letter) -> None:
        if letter in self.letters:
            self.letters.remove(letter)
        letter.body = b""

    def _over(self, events: list[Event]) -> list[Event]:
        self.is_over = True
        self._out.clear()
        return [*events, *self._return_the_rest()]

    def _return_the_rest(self) -> list[Event]:
        rest = [letter for letter in self.letters if not letter.is_asking]
        for letter in rest:
            self.letters.remove(letter)
        return [Returned(letter) for letter in rest]


def _is_in_step(reply: Reply) -> bool:
    """Whether the reply refuses, and another command may follow."""
    return replies.is_refusal(reply) and reply.code != replies.CLOSING
