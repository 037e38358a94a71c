"""How a status and a list of doubts look on a terminal; it reads no database."""

from __future__ import annotations

from pillarbox.console.doubts import Doubt
from pillarbox.console.status import MailerStatus, Status, StreamStatus, WorkerStatus
from pillarbox.management.terminal import Terminal, duration
from pillarbox.models import FINISHED, State

_WAITING = (State.QUEUED, State.SENDING, State.HELD, State.IN_DOUBT)


def show_status(status: Status, terminal: Terminal) -> None:
    """Write tables of streams and workers, of mailers if one is down, and what needs a person."""
    ended = [state for state in State if state in FINISHED and status.count(state)]
    header = ["stream", "due", "oldest due", *map(_title, _WAITING), *map(_title, ended)]
    lines = [_stream(stream, ended) for stream in status.streams]
    if any(stream.resent for stream in status.streams):
        header.append("sent again")
        lines = [
            [*line, f"{stream.resent:,}"]
            for line, stream in zip(lines, status.streams, strict=True)
        ]
    terminal.table(header, lines)
    if status.finished_within:
        hours = round(status.finished_within.total_seconds() / 3600)
        terminal.say(f"(finished messages: of the last {hours} hours)")
    if not all(mailer.carries for mailer in status.mailers):
        terminal.say()
        show_mailers(status.mailers, terminal)
    terminal.say()
    if status.workers:
        header = ["host", "process", "engine", "doing", "heartbeat", "running"]
        terminal.table(header, [_worker(worker) for worker in status.workers])
    else:
        terminal.say(
            "No worker is at work. Those of a task queue are seen here only while there is mail."
        )
    _show_needs(status, terminal)


def show_mailers(mailers: list[MailerStatus], terminal: Terminal) -> None:
    """Write a table of the mailers."""
    header = ["mailer", "backend", "state", "may be tried", "failures", "last fault"]
    terminal.table(header, [_mailer(mailer) for mailer in mailers])


def _mailer(mailer: MailerStatus) -> list[str]:
    return [
        mailer.alias if mailer.is_known else f"{mailer.alias} (not in the settings)",
        mailer.backend or "-",
        mailer.state.replace("_", " "),
        "-" if mailer.open_s is None else f"in {duration(mailer.open_s)}",
        str(mailer.failures),
        mailer.reason or "-",
    ]


def _title(state: State) -> str:
    return state.value.replace("_", " ")


def _stream(stream: StreamStatus, ended: list[State]) -> list[str]:
    marks = [] if stream.is_known else ["not in the settings"]
    marks += ["paused"] if stream.is_paused else []
    marks += [f"at most {stream.rate}"] if stream.rate else []
    name = f"{stream.name} ({', '.join(marks)})" if marks else stream.name
    counts = [f"{stream.counts[state]:,}" for state in (*_WAITING, *ended)]
    return [name, f"{stream.due:,}", duration(stream.oldest_due_s), *counts]


def _worker(worker: WorkerStatus) -> list[str]:
    return [
        worker.host,
        str(worker.pid),
        worker.engine,
        worker.doing,
        f"{duration(worker.heartbeat_age_s)} ago",
        duration(worker.running_s),
    ]


def show_doubt(doubt: Doubt, terminal: Terminal) -> None:
    """Write what is known of a message in doubt: one line to find it by, and four below."""
    held = ", held by a person" if doubt.state == State.HELD else ""
    again = f", sent again {doubt.resends} time(s)" if doubt.resends else ""
    terminal.say(f"{doubt.pk}  {doubt.message_id}")
    terminal.say(f"    stream {doubt.stream}, policy {doubt.policy}{again}{held}")
    begun = "unknown" if doubt.begun_at is None else f"{doubt.begun_at:%Y-%m-%d %H:%M:%S} UTC"
    terminal.say(f"    begun {begun}, mailer {doubt.mailer or 'unknown'}, server {doubt.server}")
    terminal.say(f"    how far: {doubt.how_far}")
    terminal.say(f"    cause: {doubt.cause}")


def _show_needs(status: Status, terminal: Terminal) -> None:
    doubtful = status.count(State.IN_DOUBT)
    if doubtful:
        terminal.say()
        terminal.say(
            f"{doubtful:,} in doubt: perhaps delivered, nobody knows. "
            "See `manage.py pillarbox doubts`.",
            style="WARNING",
        )
