"""The list of messages at the size of millions: it counts to a limit and orders by number alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.functional import cached_property

from pillarbox.conf import get_settings
from pillarbox.console import search
from pillarbox.models import Message, State

if TYPE_CHECKING:
    _Paginator = Paginator[Message]
else:
    _Paginator = Paginator

FILTERS = frozenset({"state__exact", "stream", "priority__exact", "sensitive__exact"})


class CappedPaginator(_Paginator):
    """Counts no further than ``limit``: a COUNT(*) over millions of rows takes seconds."""

    limit = 5_000

    @cached_property
    def count(self) -> int:
        """Return how many there are, or ``limit`` where there are more."""
        return min(self._counted, self.limit)

    @property
    def is_capped(self) -> bool:
        """Whether there are more than ``count`` says."""
        return self._counted > self.limit

    @cached_property
    def _counted(self) -> int:
        rows = cast("QuerySet[Message]", self.object_list).order_by()
        return rows.values("pk")[: self.limit + 1].count()


class StreamFilter(admin.SimpleListFilter):
    """Filters by stream; the names are the settings', since a DISTINCT would read every row."""

    title = "stream"
    parameter_name = "stream"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        """Return the streams of the settings, and the one asked for, which may have left them."""
        names = dict.fromkeys([*get_settings().streams, *filter(None, [self.value()])])
        return [(name, name) for name in names]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Message]) -> QuerySet[Message]:
        """Return the messages of the stream."""
        return queryset.filter(stream=self.value()) if self.value() else queryset


class MessageChangeList(ChangeList):
    """The newest first, whatever the address bar asks for: no other order has an index."""

    is_recent_only = False
    recent = search.RECENT

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        """Return the one order, that of the primary key."""
        return ["-pk"]

    def get_queryset(self, request: HttpRequest, *args: Any, **kwargs: Any) -> QuerySet[Any]:
        """Filter and search; look at the newest alone where no index serves the filters."""
        queryset = super().get_queryset(request, *args, **kwargs)
        self.is_recent_only = self._reads_every_row()
        return queryset.filter(search.recent(queryset.db)) if self.is_recent_only else queryset

    def _reads_every_row(self) -> bool:
        # Every state but `sent` is a small part of the table and has an index.
        is_narrow = self.query or self.params.get("state__exact", State.SENT) != State.SENT
        return not is_narrow and not FILTERS.isdisjoint(self.params)

    def get_results(self, request: HttpRequest) -> None:
        """Count to the limit; say nothing beside the search box where that is not the number."""
        super().get_results(request)
        if self.paginator.is_capped:
            self.full_result_count = self.result_count
