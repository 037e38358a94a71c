"""Which messages a verb is for: by number, by filters, or all that it can turn; it only reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.core.management import CommandError
from django.core.management.base import CommandParser
from django.db.models import Q, QuerySet

from pillarbox.addresses import bare
from pillarbox.console.operations import Operation
from pillarbox.models import Message, Recipient, in_states

BATCH = 500
USAGE = 2


def add_arguments(parser: CommandParser, operation: Operation) -> None:
    """Add the numbers and filters; ``--state`` where the verb knows more than one."""
    parser.add_argument("ids", nargs="*", type=int, metavar="ID", help="Numbers of messages.")
    parser.add_argument("--stream", help="Only messages of this stream.")
    parser.add_argument(
        "--to",
        metavar="ADDRESS",
        help="Only messages whose first recipient is this address, or that were tried for it.",
    )
    states = sorted(str(state.value) for state in operation.states)
    if len(states) > 1:
        parser.add_argument("--state", choices=states, help="Only messages in this state.")
    parser.add_argument(
        "--all", action="store_true", help=f"Every message that is {' or '.join(states)}."
    )
    parser.add_argument(
        "--no-input", action="store_true", help="With --all, do not ask whether that is meant."
    )


@dataclass(frozen=True)
class Selection:
    """The messages asked for. Those named by number are taken whatever their state is."""

    queryset: QuerySet[Message]
    missing: list[int]
    is_all: bool

    def batches(self) -> Iterator[list[Message]]:
        """Yield them in order of their numbers, 500 at a time: the verb changes what is found."""
        last = 0
        while batch := list(self.queryset.filter(pk__gt=last).order_by("pk")[:BATCH]):
            yield batch
            last = batch[-1].pk


def select(options: Mapping[str, Any], operation: Operation, using: str) -> Selection:
    """Return what the options ask for. Raise CommandError, of code 2, where they ask nothing."""
    chosen = Message.objects.using(using).all()
    filters = _filters(options, using)
    ids, is_all = options["ids"], options["all"]
    if not (ids or filters or is_all) or (is_all and ids):
        raise CommandError(
            "Say which messages: by their numbers, by --stream, --to or --state, or --all of them.",
            returncode=USAGE,
        )
    for condition in filters:
        chosen = chosen.filter(condition)
    if not ids:
        chosen = chosen.filter(in_states(operation.states))
        chosen = chosen.exclude(content="") if operation.needs_content else chosen
        return Selection(chosen, [], is_all)
    chosen = chosen.filter(pk__in=ids)
    found = set(Message.objects.using(using).filter(pk__in=ids).values_list("pk", flat=True))
    return Selection(chosen, sorted(set(ids) - found), is_all)


def _filters(options: Mapping[str, Any], using: str) -> list[Q]:
    filters = []
    if options["stream"]:
        filters.append(Q(stream=options["stream"]))
    if options.get("state"):
        filters.append(Q(state=options["state"]))
    if options["to"]:
        address = bare(options["to"])
        tried = Recipient.objects.using(using).filter(address=address).values("message_id")
        filters.append(Q(first_recipient=address) | Q(pk__in=tried))
    return filters
