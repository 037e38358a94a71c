"""Celery: the wake is a task without arguments, the sweep an entry of beat's schedule."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any, ClassVar

from celery import Celery, Task, current_app, shared_task
from celery.signals import worker_init
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string
from kombu import pools
from kombu.connection import Connection

from pillarbox.conf import get_settings
from pillarbox.engines import base

_EVERY = {
    "pillarbox.jobs.sweep": base.SWEEP_INTERVAL,
    "pillarbox.jobs.prune": timedelta(days=1),
}
# One more try at once is for a pooled connection that the broker has dropped.
_TRIES = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}
_EAGER = "task_always_eager runs every task in its caller, where a drain must not run."
_EAGER_HINT = 'Where you set it, set PILLARBOX["ENGINE"] to "immediate".'


class _Job(Task):  # type: ignore[misc]
    """A job of ours, which comes into beat's schedule with the app that it is bound to."""

    @classmethod
    def on_bound(cls, app: Celery) -> None:
        """Add the periodic jobs, unless the project's ``beat_schedule`` has them already."""
        if cls.name in _EVERY:
            every = _EVERY[cls.name]
            # What waited for longer than its interval has a successor in the queue.
            options = {**get_settings().engine_options, "expires": every.total_seconds()}
            entry = {"task": cls.name, "schedule": every, "options": options}
            app.conf.beat_schedule = {cls.name: entry, **app.conf.beat_schedule}


def _declare(path: str) -> Any:
    # Acknowledged early: a wake that dies with its worker is worth nothing before the dead
    # drain's lease has run out, and then the sweep comes. No results: nobody reads them.
    def run() -> None:
        import_string(path)()

    options = {"ignore_result": True, "acks_late": False, "max_retries": 0}
    return shared_task(run, name=path, base=_Job, **options)


TASKS = {path: _declare(path) for path in base.JOBS}
worker_init.connect(base.import_jobs)


class Engine(base.Engine):
    """The options ``queue`` and ``priority`` go to ``apply_async``."""

    name: ClassVar[str] = "celery"
    supports_delay: ClassVar[bool] = True
    supports_periodic: ClassVar[bool] = True
    known_options: ClassVar[tuple[str, ...]] = ("queue", "priority")

    def async_task(self, dotted_path: str, *, delay: timedelta | None = None) -> None:
        """Publish the job. Raise ImproperlyConfigured where Celery would run it in the caller."""
        if current_app.conf.task_always_eager:
            raise ImproperlyConfigured(f"{_EAGER} {_EAGER_HINT}")
        producers = pools.producers[
            _kept_connection(current_app._get_current_object(), os.getpid())
        ]
        with producers.acquire(block=True, timeout=base.BROKER_TIMEOUT_S) as producer:
            TASKS[dotted_path].apply_async(
                countdown=delay.total_seconds() if delay else None,
                producer=producer,
                retry=True,
                retry_policy=_TRIES,
                **self.options,
            )

    def deadline(self) -> base.Deadline:
        """Return 8 s, since a child of Celery's is told nothing, and the task time limit."""
        names = ("task_soft_time_limit", "task_time_limit")
        limits = [(current_app.conf[name], name) for name in names if current_app.conf[name]]
        return base.Deadline(base.DRAIN_S, *min(limits, default=(None, "")))

    def check(self) -> Sequence[checks.CheckMessage]:
        """Return what is wrong in the configuration of the project's Celery app."""
        return [*super().check(), *self._check_app()]

    def _check_app(self) -> Iterator[checks.CheckMessage]:
        if not current_app.conf.broker_write_url:
            text = "Celery knows no broker, so it would dial RabbitMQ on localhost."
            hint = "Set broker_url, and import your Celery app in the project's __init__.py."
            yield checks.Error(text, hint=hint, id="pillarbox.E025")
        if current_app.conf.task_always_eager:
            yield checks.Warning(_EAGER, hint=_EAGER_HINT, id="pillarbox.W021")

    def ping(self) -> str:
        """Connect to the broker and return its address. Raise what kombu raises."""
        with _connection(_app(), os.getpid()) as connection:
            connection.default_channel.close()
            return str(connection.as_uri())


def _app() -> Celery:
    return current_app._get_current_object()


def _connection(app: Celery, process: int) -> Connection:
    """Return the app's broker with short time-outs, the key of a pool of our own.

    Celery's own pool tries for ever where nobody listens, and its Redis reads for ever. The
    process is part of the key: a socket must not be shared by two that were forked.
    """
    timeout_s = base.BROKER_TIMEOUT_S
    bounds = {
        **_TRIES,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "read_timeout": timeout_s,
        "write_timeout": timeout_s,
        "client_properties": {"connection_name": f"pillarbox, process {process}"},
    }
    connection: Connection = app.connection_for_write(
        connect_timeout=timeout_s, transport_options=bounds
    )
    return connection


_kept_connection = lru_cache(maxsize=8)(_connection)  # to make it takes as long as to publish
