"""How values look on the admin's pages: labels and moments; it escapes all it is given."""

from __future__ import annotations

from datetime import datetime

from django.db.models import TextChoices
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timesince import timesince

NOTHING = "–"


def label(kind: str, text: str) -> SafeString:
    """Return a label; its colour, by ``kind``, only repeats what the text says."""
    return format_html('<span class="pillarbox-label pillarbox-{}">{}</span>', kind, text)


def state_label(state: TextChoices) -> SafeString:
    """Return the label of a state."""
    return label(str(state.value), str(state.label))


def ago(moment: datetime | None, now: datetime | None = None) -> str:
    """Return ``3 hours`` for a moment three hours ago, with the moment itself as its title."""
    if moment is None:
        return NOTHING
    return _moment(moment, _since(moment, now or timezone.now()))


def until(moment: datetime | None) -> str:
    """Return ``in 3 hours`` for a moment to come and ``now`` for one that has passed."""
    if moment is None:
        return NOTHING
    wait = f"in {_unbroken(timesince(timezone.now(), moment, depth=1))}"
    return _moment(moment, wait if moment > timezone.now() else "now")


def exactly(moment: datetime | None) -> str:
    """Return the moment to the second."""
    return NOTHING if moment is None else f"{timezone.localtime(moment):%Y-%m-%d %H:%M:%S %Z}"


def _since(moment: datetime, now: datetime) -> str:
    seconds = max(0, int((now - moment).total_seconds()))
    return _unbroken(f"{seconds} s" if seconds < 60 else timesince(moment, now, depth=1))


def _unbroken(text: str) -> str:
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _moment(moment: datetime, text: str) -> SafeString:
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        moment.isoformat(),
        exactly(moment),
        text,
    )
