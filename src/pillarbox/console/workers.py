"""The admin of drains (the workers seen) and of pauses: adding one pauses, deleting one resumes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.db import router, transaction
from django.db.models import Field, QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from pillarbox.conf import get_settings
from pillarbox.console import labels
from pillarbox.delivery.claims import LEASE
from pillarbox.engines import coalesce
from pillarbox.models import DatabaseNow, Drain, Pause

if TYPE_CHECKING:
    _DrainAdmin = admin.ModelAdmin[Drain]
    _PauseAdmin = admin.ModelAdmin[Pause]
else:
    _DrainAdmin = _PauseAdmin = admin.ModelAdmin


@admin.register(Drain)
class DrainAdmin(_DrainAdmin):
    """Which workers are there, and when each last gave a sign of life."""

    list_display = ("host", "pid", "engine", "doing", "heartbeat", "slot", "started")
    list_display_links = None
    ordering = ("host", "pid")
    sortable_by = ()

    class Media:
        css = {"all": ["pillarbox/console.css"]}

    def get_queryset(self, request: HttpRequest) -> QuerySet[Drain]:
        """Return the drains, each with the database's time: leases are by that clock."""
        return super().get_queryset(request).annotate(read_at=DatabaseNow())

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: a drain writes its own row."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Drain | None = None) -> bool:
        """Return False: a drain writes its own row."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Drain | None = None) -> bool:
        """Return False: what a drain holds hangs on its row."""
        return False

    @admin.display(description="doing")
    def doing(self, drain: Any) -> SafeString:
        """Return what the drain is at, or that its lease has run out."""
        if drain.lease_until <= drain.read_at:
            return labels.label("gone", "Gone")
        if drain.closing:
            return labels.label("closing", "Closing")
        return labels.label("idle", "Idle") if drain.idle else labels.label("working", "Working")

    @admin.display(description="last heartbeat")
    def heartbeat(self, drain: Any) -> str:
        """Return how long ago the lease was renewed."""
        return labels.ago(drain.lease_until - LEASE, now=drain.read_at)

    @admin.display(description="started")
    def started(self, drain: Any) -> str:
        """Return how long ago the drain started."""
        return labels.ago(drain.started_at, now=drain.read_at)


@admin.register(Pause)
class PauseAdmin(_PauseAdmin):
    """The streams that are stopped."""

    list_display = ("stream", "since_exactly")
    fields = ("stream",)
    sortable_by = ()

    def has_change_permission(self, request: HttpRequest, obj: Pause | None = None) -> bool:
        """Return False: a stream is paused or it is not."""
        return False

    def formfield_for_dbfield(
        self, db_field: Field[Any, Any], request: HttpRequest, **kwargs: Any
    ) -> Any:
        """Offer the streams of the settings."""
        if db_field.name != "stream":
            return super().formfield_for_dbfield(db_field, request, **kwargs)
        return forms.ChoiceField(
            choices=[(name, name) for name in get_settings().streams],
            help_text="Nothing of it is sent until the pause is deleted.",
        )

    def delete_model(self, request: HttpRequest, obj: Pause) -> None:
        """Resume the stream."""
        super().delete_model(request, obj)
        _wake()

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Pause]) -> None:
        """Resume the streams."""
        super().delete_queryset(request, queryset)
        _wake()

    @admin.display(description="since")
    def since_exactly(self, pause: Pause) -> str:
        """Return when it was paused."""
        return labels.exactly(pause.since)


def _wake() -> None:
    """Have what was kept back delivered now and not by the next sweep."""
    using = router.db_for_write(Pause)
    transaction.on_commit(partial(coalesce.wake, using, ()), using=using, robust=True)
