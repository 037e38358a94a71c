"""The admin of messages: it shows everything, edits nothing, and hands the verbs to the outbox."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.admin.templatetags.admin_urls import add_preserved_filters
from django.core.exceptions import PermissionDenied
from django.db import router
from django.db.models import QuerySet
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseNotAllowed,
    HttpResponseRedirect,
)
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from pillarbox.console import operations, pages, preview, search
from pillarbox.console.changelist import (
    FILTERS,
    CappedPaginator,
    MessageChangeList,
    StreamFilter,
)
from pillarbox.console.columns import LIST, PAGE, MessageColumns
from pillarbox.console.operations import OPERATIONS, Operation, Tally
from pillarbox.models import Message, in_states

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[Message]
else:
    _ModelAdmin = admin.ModelAdmin

MOST_AT_ONCE = 1_000
"""An action on more messages than this would outlast the web server's patience."""
MOST_REASONS = 5

_Action = Callable[["MessageAdmin", HttpRequest, QuerySet[Message]], None]


def _as_action(operation: Operation) -> _Action:
    @admin.action(permissions=["operate"], description=operation.action)
    def action(model_admin: MessageAdmin, request: HttpRequest, chosen: QuerySet[Message]) -> None:
        model_admin.operate_on_many(request, operation, chosen)

    action.__name__ = operation.name
    return action


@admin.register(Message)
class MessageAdmin(MessageColumns, _ModelAdmin):
    """Look, search, and cancel, hold, release, retry or resolve; messages are born elsewhere."""

    list_display = LIST
    list_filter = ("state", StreamFilter, "priority", "sensitive")
    list_per_page = 100
    list_max_show_all = 0
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    sortable_by = ()
    paginator = CappedPaginator
    search_fields = ("first_recipient",)  # shows the box; get_search_results does the work
    search_help_text = search.HELP
    actions = [_as_action(operation) for operation in OPERATIONS]
    fieldsets = PAGE

    class Media:
        css = {"all": ["pillarbox/console.css"]}

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: a message is born in `pillarbox.send_email`."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Message | None = None) -> bool:
        """Return False: the row is what happened."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Message | None = None) -> bool:
        """Return False: rows go by ``RETENTION`` alone."""
        return False

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Whether the user may use the verbs."""
        return request.user.has_perm("pillarbox.operate")

    def has_content_permission(self, request: HttpRequest) -> bool:
        """Whether the user may see bodies."""
        return request.user.has_perm("pillarbox.view_content")

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest | None = None) -> bool:
        """Allow the filters of the list alone: ``?content__contains=`` would ask out a secret."""
        return lookup in FILTERS

    # The list

    def get_queryset(self, request: HttpRequest) -> QuerySet[Message]:
        """Return all messages without what is long and not shown on the list."""
        return super().get_queryset(request).defer("content", "metadata", "tags")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[MessageChangeList]:
        """Return the list that counts and orders cheaply."""
        return MessageChangeList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Message], search_term: str
    ) -> tuple[QuerySet[Message], bool]:
        """Search by address, Message-ID, number and recent subjects; nothing is found twice."""
        return search.find(queryset, search_term), False

    def operate_on_many(
        self, request: HttpRequest, operation: Operation, chosen: QuerySet[Message]
    ) -> None:
        """Do ``operation`` to the chosen messages, 1,000 at most, and say what became of them."""
        rows = chosen.using(router.db_for_write(Message))
        if request.POST.get("select_across") == "1":
            # "All" means all that can be: the finished millions would only be refused.
            rows = rows.filter(in_states(operation.states))
        messages_ = list(rows[: MOST_AT_ONCE + 1])
        self._operate(request, operation, messages_[:MOST_AT_ONCE])
        if len(messages_) > MOST_AT_ONCE:
            text = f"{MOST_AT_ONCE:,} are done at once and there are more: run the action again."
            self.message_user(request, text, messages.WARNING)

    def _operate(
        self, request: HttpRequest, operation: Operation, chosen: Sequence[Message]
    ) -> None:
        def note(message: Message) -> None:
            self.log_change(request, message, operation.done.capitalize() + ".")

        self._report(request, operation, operations.run(operation, chosen, note))

    def _report(self, request: HttpRequest, operation: Operation, tally: Tally) -> None:
        done, refused = len(tally.done), len(tally.refused)
        if done or not refused:
            text = f"{done:,} message{'' if done == 1 else 's'} {operation.done}."
            self.message_user(request, text, messages.SUCCESS if done else messages.WARNING)
        for refusal in tally.refused[:MOST_REASONS]:
            self.message_user(request, str(refusal), messages.ERROR)
        if refused > MOST_REASONS:
            text = f"{refused - MOST_REASONS:,} more were refused."
            self.message_user(request, text, messages.ERROR)

    # The page of one message

    def get_urls(self) -> list[URLPattern]:
        """Return Django's, after our two."""
        view = self.admin_site.admin_view
        return [
            path("<int:pk>/operate/", view(self.operate_view), name="pillarbox_message_operate"),
            path("<int:pk>/content/", view(self.content_view), name="pillarbox_message_content"),
            *super().get_urls(),
        ]

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        """Add the tables, and the buttons that the state and the user's permissions allow."""
        message: Message = context["original"]
        may_operate = self.has_operate_permission(request)
        context.update(
            pages.context(message),
            title=f"Message {message.pk}",
            subtitle=None,
            operations=operations.possible(message) if may_operate else [],
            may_see_content=self.has_content_permission(request) and preview.is_shown(message),
        )
        return super().render_change_form(request, context, *args, **kwargs)

    def operate_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Do one operation to one message; a POST from the page's buttons."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        message = self._require(request, pk, may=self.has_operate_permission(request))
        operation = operations.BY_NAME.get(request.POST.get("operation", ""))
        if operation is None:
            raise Http404("There is no such operation.")
        self._operate(request, operation, [message])
        url = reverse("admin:pillarbox_message_change", args=(pk,), current_app=self._site)
        filters = self.get_preserved_filters(request)
        kept: dict[str, Any] = {"preserved_filters": filters, "opts": self.opts}
        return HttpResponseRedirect(add_preserved_filters(kept, url))

    def content_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Show the content of one message, unless it is sensitive or erased."""
        message = self._require(request, pk, may=self.has_content_permission(request))
        if message.sensitive:
            raise PermissionDenied
        if message.is_erased:
            raise Http404("The content of this message is erased.")
        context = {
            **self.admin_site.each_context(request),
            "title": f"Content of message {message.pk}",
            "opts": self.opts,
            "original": message,
            "has_view_permission": True,
            "media": self.media,
            "content": preview.read(message),
        }
        request.current_app = self._site
        return TemplateResponse(request, "pillarbox/console/content.html", context)

    @property
    def _site(self) -> str:
        return self.admin_site.name

    def _require(self, request: HttpRequest, pk: int, *, may: bool) -> Message:
        """Return the row from the database that is written to; raise unless the user may."""
        if not (may and self.has_view_permission(request)):
            raise PermissionDenied
        message = Message.objects.using(router.db_for_write(Message)).filter(pk=pk).first()
        if message is None:
            raise Http404(f"There is no message {pk}.")
        return message
