"""The admin of circuits: which mailers are down or paused; pausing and resuming them by POST."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.db import router, transaction
from django.db.models import Field, QuerySet
from django.forms import ModelForm
from django.http import HttpRequest
from django.utils.safestring import SafeString

from pillarbox.console import labels, status
from pillarbox.delivery import circuits
from pillarbox.engines import coalesce
from pillarbox.models import Circuit

if TYPE_CHECKING:
    _CircuitAdmin = admin.ModelAdmin[Circuit]
else:
    _CircuitAdmin = admin.ModelAdmin


@admin.register(Circuit)
class CircuitAdmin(_CircuitAdmin):
    """The mailers that were down or paused at some time; adding one pauses it."""

    list_display = ("mailer", "condition", "since_exactly", "tried", "failures", "reason")
    list_display_links = None
    sortable_by = ()
    fields = ("mailer",)
    actions = ("pause", "resume")

    class Media:
        css = {"all": ["pillarbox/console.css"]}

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Whether the user may pause and resume."""
        return request.user.has_perm("pillarbox.operate")

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may pause a mailer that was never at fault."""
        return self.has_operate_permission(request)

    def has_change_permission(self, request: HttpRequest, obj: Circuit | None = None) -> bool:
        """Return False: the workers write the rows."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Circuit | None = None) -> bool:
        """Return False: the workers write the rows."""
        return False

    def formfield_for_dbfield(
        self, db_field: Field[Any, Any], request: HttpRequest, **kwargs: Any
    ) -> Any:
        """Offer the mailers of the settings."""
        found = status.mailers(router.db_for_write(Circuit))
        return forms.ChoiceField(
            choices=[(mailer.alias, mailer.alias) for mailer in found if mailer.is_known],
            help_text="Nothing goes by it until it is resumed: the stream's next mailer carries.",
        )

    def save_model(
        self, request: HttpRequest, obj: Circuit, form: ModelForm[Circuit], change: bool
    ) -> None:
        """Write the row of a mailer that is to be paused."""
        obj.paused = True
        super().save_model(request, obj, form, change)

    @admin.action(permissions=["operate"], description="Pause")
    def pause(self, request: HttpRequest, chosen: QuerySet[Circuit]) -> None:
        """Let nothing more go by the mailers."""
        self._change(request, chosen, paused=True)

    @admin.action(permissions=["operate"], description="Resume")
    def resume(self, request: HttpRequest, chosen: QuerySet[Circuit]) -> None:
        """Let mail go by them again, what waited at once."""
        self._change(request, chosen, paused=False)
        using = router.db_for_write(Circuit)
        transaction.on_commit(partial(coalesce.wake, using, ()), using=using, robust=True)

    def _change(self, request: HttpRequest, chosen: QuerySet[Circuit], *, paused: bool) -> None:
        using = router.db_for_write(Circuit)
        done = "Paused." if paused else "Resumed."
        for circuit in chosen:
            circuits.mark(circuit.mailer, using, paused=paused)
            self.log_change(request, circuit, done)
        self.message_user(request, done)

    @admin.display(description="state")
    def condition(self, circuit: Circuit) -> SafeString:
        """Return the state, or that the mailer is paused."""
        if circuit.paused:
            return labels.label("held", "Paused")
        kind = {"closed": "sent", "open": "failed", "half_open": "sending"}[circuit.state]
        return labels.label(kind, circuit.get_state_display())

    @admin.display(description="may be tried")
    def tried(self, circuit: Circuit) -> str:
        """Return when a worker tries the mailer."""
        is_open = circuit.state == Circuit.State.OPEN and not circuit.paused
        return labels.until(circuit.open_until) if is_open else labels.NOTHING

    @admin.display(description="since")
    def since_exactly(self, circuit: Circuit) -> str:
        """Return when it came into that state."""
        return labels.exactly(circuit.since)
