"""django-q2: the wake is a task without arguments, the sweep one of its schedules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from functools import cached_property
from typing import Any, ClassVar

from django.apps import apps
from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router, transaction
from django_q.brokers import get_broker
from django_q.conf import Conf
from django_q.models import Schedule
from django_q.signals import post_spawn
from django_q.tasks import async_task

from pillarbox.engines import base

# A wake that fails is not worth another try, and its results would push the user's own ones
# out of django-q2's history (Q_CLUSTER["save_limit"]).
_PLAIN = {"save": False, "cached": False, "ack_failure": True}
# django-q2's clock ticks once a minute at best.
_SCHEDULES = {
    "pillarbox.sweep": ("pillarbox.jobs.sweep", {"schedule_type": Schedule.MINUTES, "minutes": 1}),
    "pillarbox.prune": ("pillarbox.jobs.prune", {"schedule_type": Schedule.DAILY}),
}
_SYNC = 'Q_CLUSTER["sync"] runs every task in its caller, where a drain must not run.'
_SYNC_HINT = 'Where you set it, set PILLARBOX["ENGINE"] to "immediate".'

post_spawn.connect(base.import_jobs)


class Engine(base.Engine):
    """The option ``cluster`` names the cluster, and so the queue, that delivers."""

    name: ClassVar[str] = "django_q2"
    supports_periodic: ClassVar[bool] = True
    known_options: ClassVar[tuple[str, ...]] = ("cluster",)

    def async_task(self, dotted_path: str, *, delay: timedelta | None = None) -> None:
        """Queue the job. Raise ImproperlyConfigured where django-q2 would run it in the caller."""
        if Conf.SYNC:
            raise ImproperlyConfigured(f"{_SYNC} {_SYNC_HINT}")
        with _transaction():
            options = {**_PLAIN, "task_name": dotted_path, "cluster": self._cluster}
            async_task(dotted_path, q_options={**options, "broker": self._broker()})

    @property
    def _cluster(self) -> str | None:
        return self.options.get("cluster")

    def _broker(self) -> Any:
        return self._redis if _dials_redis() else get_broker(self._cluster)

    @cached_property
    def _redis(self) -> Any:
        """A broker of our own: redis-py tries again for 4 s by default and reads for ever."""
        broker = get_broker(self._cluster)
        kept = broker.connection.connection_pool.connection_kwargs
        kept |= {"socket_timeout": base.BROKER_TIMEOUT_S, "retry": None}
        if "socket_connect_timeout" in kept:
            kept["socket_connect_timeout"] = base.BROKER_TIMEOUT_S
        return broker

    def deadline(self) -> base.Deadline:
        """Return 8 s, since django-q2 tells a task nothing, and Q_CLUSTER's own time-out."""
        kill_s = self._conf.get("timeout")
        return base.Deadline(base.DRAIN_S, kill_s, 'Q_CLUSTER["timeout"]')

    @property
    def _conf(self) -> Mapping[str, Any]:
        conf = getattr(settings, "Q_CLUSTER", {})
        return {**conf, **conf.get("ALT_CLUSTERS", {}).get(self._cluster, {})}

    def register_sweep(self, using: str) -> None:
        """Create the schedules that are missing; what an operator has changed stays as it is."""
        if using != router.db_for_write(Schedule):
            return
        if Schedule._meta.db_table in connections[using].introspection.table_names():
            for name, (path, when) in _SCHEDULES.items():
                if not Schedule.objects.using(using).filter(name=name).exists():
                    self._create_schedule(using, name, path, when)

    def _create_schedule(self, using: str, name: str, path: str, when: dict[str, Any]) -> None:
        options = {"q_options": {**_PLAIN, "task_name": path}}
        schedules = Schedule.objects.using(using)
        schedules.create(name=name, func=path, cluster=self._cluster, kwargs=str(options), **when)
        # Names are not unique. Two hosts that migrate at once both see both rows afterwards, if
        # not one then the other, and keep the same one.
        same = schedules.filter(name=name)
        same.exclude(pk=same.order_by("pk").values_list("pk", flat=True)[0]).delete()

    def check(self) -> Sequence[checks.CheckMessage]:
        """Return what is wrong in Q_CLUSTER and in INSTALLED_APPS."""
        return [*super().check(), *self._check_cluster()]

    def _check_cluster(self) -> Iterator[checks.CheckMessage]:
        if not apps.is_installed("django_q"):
            hint = 'Add "django_q" to INSTALLED_APPS.'
            yield checks.Error(
                "The engine django_q2 needs its app.", hint=hint, id="pillarbox.E022"
            )
        if not hasattr(settings, "Q_CLUSTER"):
            text = "Q_CLUSTER is not set, so django-q2 would dial Redis on localhost."
            hint = 'Set Q_CLUSTER = {"orm": "default", "timeout": 60, "retry": 120}.'
            yield checks.Error(text, hint=hint, id="pillarbox.E023")
        elif (retry_s := self._conf.get("retry", Conf.RETRY)) <= base.DRAIN_S:
            text = f'Q_CLUSTER["retry"] is {retry_s} seconds: a drain at work would get a double.'
            hint = f"Set it above the timeout, and in any case above {base.DRAIN_S:g}."
            yield checks.Error(text, hint=hint, id="pillarbox.E024")
        if self._conf.get("sync"):
            yield checks.Warning(_SYNC, hint=_SYNC_HINT, id="pillarbox.W020")

    def ping(self) -> str:
        """Ask the broker for its name and for how many tasks wait. Raise what it raises."""
        with _transaction():
            broker = self._broker()
            return f"{broker.info()}: {broker.queue_size()} tasks wait in {broker.list_key}"


def _transaction() -> AbstractContextManager[object]:
    """Open a transaction on the ORM broker's database: outside one it closes the caller's."""
    return transaction.atomic(using=Conf.ORM) if Conf.ORM else nullcontext()


def _dials_redis() -> bool:
    others = (Conf.BROKER_CLASS, Conf.IRON_MQ, Conf.SQS, Conf.ORM, Conf.MONGO, Conf.DJANGO_REDIS)
    return not any(others)
