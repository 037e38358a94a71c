"""One suite for every engine: what it is handed, what it refuses, what it says about itself."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery
from celery._state import _set_current_app
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django_q.conf import Conf
from django_q.models import OrmQ, Schedule
from django_q.signing import SignedPackage
from pytest_django import Settings

from pillarbox.conf import ENGINES
from pillarbox.engines import async_task, get_engine
from pillarbox.engines.base import JOBS, SWEEP_INTERVAL, Deadline, Engine
from tests.support.processes import with_settings

LIBRARIES = {"django_q2": "django_q", "celery": "celery"}


@dataclass
class Clock:
    """An engine under test, and a look at the tasks that wait in its queue."""

    engine: Engine
    waiting: Callable[[], list[dict[str, Any]]]


@pytest.fixture
def celery_app() -> Iterator[Celery]:
    """A project's app on a broker in memory, the current one of this thread."""
    app = Celery("shop", broker="memory://", fixups=[])
    app.conf.task_default_queue = f"shop-{uuid.uuid4()}"  # all brokers in memory are one
    yield app
    app.close()
    _set_current_app(None)


@pytest.fixture(params=ENGINES)
def name(request: pytest.FixtureRequest) -> str:
    """The engine's name; every test here runs once for each."""
    return str(request.param)


@pytest.fixture
def clock(name: str, settings: Settings, celery_app: Celery, transactional_db: None) -> Clock:
    """The engine as ``PILLARBOX`` chooses it, on an empty queue."""
    settings.PILLARBOX = {"ENGINE": name}
    waiting: Mapping[str, Callable[[], list[dict[str, Any]]]] = {
        "django_q2": _in_the_orm_broker,
        "celery": lambda: _in_memory(celery_app, celery_app.conf.task_default_queue),
    }
    return Clock(get_engine(), waiting.get(name, list))


def _in_the_orm_broker() -> list[dict[str, Any]]:
    tasks = [SignedPackage.loads(row.payload) for row in OrmQ.objects.order_by("pk")]
    return [{**task, "path": task["func"], "arguments": [*task["args"]]} for task in tasks]


def _in_memory(app: Celery, queue: str) -> list[dict[str, Any]]:
    found = []
    with app.connection_for_read() as broker:
        channel = broker.default_channel
        while (message := channel.basic_get(queue, no_ack=True)) is not None:
            body = message.decode()
            found.append({**message.headers, "path": message.headers["task"], "arguments": body[0]})
    return found


def queues(clock: Clock) -> bool:
    """Whether its jobs wait in a broker's queue for a worker."""
    return clock.engine.name in LIBRARIES


@pytest.mark.parametrize("job", JOBS)
def test_an_engine_takes_every_job_of_ours_and_no_payload(clock: Clock, job: str) -> None:
    async_task(job)
    handed = [(task["path"], task["arguments"]) for task in clock.waiting()]
    assert handed == ([(job, [])] if queues(clock) else [])


@pytest.mark.parametrize("path", ["os.abort", "pillarbox.jobs.logger", "deliver_due", ""])
def test_no_other_function_can_be_run_through_an_engine(clock: Clock, path: str) -> None:
    with pytest.raises(ValueError, match=r"The jobs are pillarbox\.jobs\.deliver_due"):
        async_task(path)
    assert clock.waiting() == []


def test_a_delay_is_kept_where_the_engine_has_delays(clock: Clock) -> None:
    async_task("pillarbox.jobs.deliver_due", delay=timedelta(seconds=20))
    delayed = [bool(task.get("eta")) for task in clock.waiting()]
    assert delayed == ([clock.engine.supports_delay] if queues(clock) else [])


def test_an_engine_leaves_the_callers_connection_open(clock: Clock) -> None:
    connection.ensure_connection()
    theirs = connection.connection
    async_task("pillarbox.jobs.deliver_due")
    assert connection.connection is theirs or clock.engine.is_immediate


def test_a_sound_configuration_passes_the_checks(clock: Clock) -> None:
    assert list(clock.engine.check()) == []


def test_an_unknown_option_is_an_error_that_names_the_known_ones(
    clock: Clock, settings: Settings
) -> None:
    settings.PILLARBOX = {"ENGINE": clock.engine.name, "ENGINE_OPTIONS": {"kew": "mail"}}
    (problem,) = get_engine().check()
    assert problem.id == "pillarbox.E020"
    assert "'kew'" in problem.msg
    assert all(option in str(problem.hint) for option in clock.engine.known_options)


def test_a_ping_says_what_it_reached(clock: Clock) -> None:
    said = clock.engine.ping()
    assert said
    assert "\n" not in said


def test_a_drain_ends_well_before_its_engine_kills_it(clock: Clock) -> None:
    deadline = clock.engine.deadline()
    assert not deadline.is_too_short
    assert deadline.drain_s == (8 if queues(clock) else None)


def test_the_engine_knows_its_own_name_and_whether_anything_comes_by_itself(clock: Clock) -> None:
    assert get_engine().name == clock.engine.name
    assert clock.engine.supports_periodic is not clock.engine.is_immediate


def loaded_modules(engine: str, env: dict[str, str], then: str = "") -> set[str]:
    """Return what a process of a project has imported after ``django.setup()`` and ``then``."""
    apps = ["django.contrib.contenttypes", "pillarbox"]
    apps += ["django_q"] if engine == "django_q2" else []
    env = with_settings(env, INSTALLED_APPS=apps, PILLARBOX={"ENGINE": engine})
    code = f"import django, sys; django.setup(); {then}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True
    )
    return set(done.stdout.split())


def test_only_the_chosen_engines_library_is_imported(
    name: str, process_env: dict[str, str]
) -> None:
    loaded = loaded_modules(name, process_env) & set(LIBRARIES.values())
    assert loaded == ({LIBRARIES[name]} if name in LIBRARIES else set())


@pytest.mark.django_db(transaction=True)
def test_the_first_mail_of_a_process_imports_nothing_more(process_env: dict[str, str]) -> None:
    send = """
from django.db import transaction
from pillarbox import send_email
with transaction.atomic():
    send_email("a", "b", ["ada@example.org"])
    transaction.set_rollback(True)
"""
    loaded = loaded_modules("worker", process_env, send) - loaded_modules("worker", process_env)
    assert not {module for module in loaded if module.startswith("pillarbox")}


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("celery", "from celery.signals import worker_init; worker_init.send(sender=None)"),
        (
            "django_q2",
            "from django_q.signals import post_spawn; post_spawn.send('', proc_name='')",
        ),
    ],
)
def test_a_worker_imports_the_jobs_as_it_starts_and_a_caller_never(
    name: str, start: str, process_env: dict[str, str]
) -> None:
    assert "pillarbox.jobs" not in loaded_modules(name, process_env)
    assert "pillarbox.delivery.drain" in loaded_modules(name, process_env, start)


class TestDjangoQ2:
    """What is django-q2's own."""

    @pytest.fixture(autouse=True)
    def name(self) -> str:
        return "django_q2"

    def test_the_option_cluster_is_the_queue(self, clock: Clock, settings: Settings) -> None:
        settings.PILLARBOX = {"ENGINE_OPTIONS": {"cluster": "mail"}}
        async_task("pillarbox.jobs.deliver_due")
        assert list(OrmQ.objects.values_list("key", flat=True)) == ["mail"]

    def test_a_wake_leaves_no_result_and_is_not_tried_again(self, clock: Clock) -> None:
        async_task("pillarbox.jobs.deliver_due")
        (task,) = clock.waiting()
        assert (task["save"], task["cached"], task["ack_failure"]) == (False, False, True)
        assert task["name"] == "pillarbox.jobs.deliver_due"

    @pytest.mark.django_db(databases=["default", "other"], transaction=True)
    def test_a_broker_on_another_database_leaves_the_callers_connection_open(
        self, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Conf, "ORM", "other")
        connection.ensure_connection()
        theirs = connection.connection
        async_task("pillarbox.jobs.deliver_due")
        assert connection.connection is theirs
        assert OrmQ.objects.using("other").count() == 1

    def test_sync_mode_is_refused_because_a_drain_must_not_run_in_the_caller(
        self, clock: Clock, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Conf, "SYNC", True)
        settings.Q_CLUSTER = {**settings.Q_CLUSTER, "sync": True}
        with pytest.raises(ImproperlyConfigured, match="immediate"):
            async_task("pillarbox.jobs.deliver_due")
        assert [problem.id for problem in clock.engine.check()] == ["pillarbox.W020"]

    def test_no_cluster_settings_is_an_error(self, clock: Clock, settings: Settings) -> None:
        del settings.Q_CLUSTER
        assert [problem.id for problem in clock.engine.check()] == ["pillarbox.E023"]

    def test_django_q_must_be_installed(self, clock: Clock, settings: Settings) -> None:
        settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if app != "django_q"]
        assert [problem.id for problem in clock.engine.check()] == ["pillarbox.E022"]

    @pytest.mark.parametrize(
        ("timeout", "retry", "expected"),
        [
            (60, 120, []),
            (None, 120, []),
            (14, 15, []),
            (13, 20, ["pillarbox.E021"]),
            (8, 9, ["pillarbox.E021"]),
            (None, 8, ["pillarbox.E024"]),
            (5, 7, ["pillarbox.E021", "pillarbox.E024"]),
        ],
    )
    def test_a_timeout_or_retry_too_near_the_drains_deadline_is_an_error(
        self,
        clock: Clock,
        settings: Settings,
        timeout: int | None,
        retry: int,
        expected: list[str],
    ) -> None:
        settings.Q_CLUSTER = {"orm": "default", "timeout": timeout, "retry": retry}
        assert [problem.id for problem in clock.engine.check()] == expected
        assert clock.engine.deadline() == Deadline(8, timeout, 'Q_CLUSTER["timeout"]')

    def test_the_chosen_clusters_own_timeout_counts(self, clock: Clock, settings: Settings) -> None:
        settings.Q_CLUSTER = {**settings.Q_CLUSTER, "ALT_CLUSTERS": {"mail": {"timeout": 9}}}
        settings.PILLARBOX = {"ENGINE_OPTIONS": {"cluster": "mail"}}
        assert [problem.id for problem in get_engine().check()] == ["pillarbox.E021"]


class TestTheSchedulesOfDjangoQ2:
    """The sweep and the pruning, created by ``migrate``."""

    @pytest.fixture(autouse=True)
    def name(self) -> str:
        return "django_q2"

    @pytest.fixture
    def register(self, clock: Clock) -> Callable[[], None]:
        Schedule.objects.all().delete()
        return lambda: clock.engine.register_sweep("default")

    def test_they_are_created_once(self, register: Callable[[], None]) -> None:
        register()
        register()
        found = Schedule.objects.order_by("name").values_list("name", "func", "schedule_type")
        assert list(found) == [
            ("pillarbox.prune", "pillarbox.jobs.prune", Schedule.DAILY),
            ("pillarbox.sweep", "pillarbox.jobs.sweep", Schedule.MINUTES),
        ]
        assert Schedule.objects.get(name="pillarbox.sweep").minutes == 1

    def test_what_an_operator_changed_stays(self, register: Callable[[], None]) -> None:
        register()
        Schedule.objects.filter(name="pillarbox.sweep").update(minutes=5, cluster="night")
        register()
        sweep = Schedule.objects.get(name="pillarbox.sweep")
        assert (sweep.minutes, sweep.cluster) == (5, "night")

    def test_what_was_deleted_comes_back(self, register: Callable[[], None]) -> None:
        register()
        Schedule.objects.filter(name="pillarbox.sweep").delete()
        register()
        assert Schedule.objects.filter(name="pillarbox.sweep").count() == 1

    def test_another_database_gets_none(self, clock: Clock, register: Callable[[], None]) -> None:
        clock.engine.register_sweep("other")
        assert not Schedule.objects.exists()

    def test_they_run_on_the_chosen_cluster(
        self, register: Callable[[], None], settings: Settings
    ) -> None:
        settings.PILLARBOX = {"ENGINE_OPTIONS": {"cluster": "mail"}}
        get_engine().register_sweep("default")
        assert set(Schedule.objects.values_list("cluster", flat=True)) == {"mail"}

    def test_missing_tables_are_no_fault(self, register: Callable[[], None]) -> None:
        with connection.schema_editor() as editor:
            editor.delete_model(Schedule)
        try:
            register()
        finally:
            with connection.schema_editor() as editor:
                editor.create_model(Schedule)


class TestCelery:
    """What is Celery's own."""

    @pytest.fixture(autouse=True)
    def name(self) -> str:
        return "celery"

    def test_the_options_choose_queue_and_priority(
        self, clock: Clock, settings: Settings, celery_app: Celery
    ) -> None:
        settings.PILLARBOX = {
            "ENGINE": "celery",
            "ENGINE_OPTIONS": {"queue": "mail", "priority": 7},
        }
        async_task("pillarbox.jobs.deliver_due")
        assert _in_memory(celery_app, celery_app.conf.task_default_queue) == []
        (task,) = _in_memory(celery_app, "mail")
        assert task["path"] == "pillarbox.jobs.deliver_due"

    def test_a_wake_leaves_no_result(self, clock: Clock) -> None:
        async_task("pillarbox.jobs.deliver_due")
        (task,) = clock.waiting()
        assert task["ignore_result"] is True

    def test_the_sweep_is_in_beats_schedule_by_itself(
        self, clock: Clock, celery_app: Celery
    ) -> None:
        celery_app.finalize()
        schedule = celery_app.conf.beat_schedule
        assert schedule["pillarbox.jobs.sweep"]["schedule"] == SWEEP_INTERVAL
        assert schedule["pillarbox.jobs.prune"]["schedule"] == timedelta(days=1)

    def test_the_projects_own_entry_wins(self, clock: Clock) -> None:
        mine = {"task": "pillarbox.jobs.sweep", "schedule": 600}
        app = Celery("mine", set_as_current=False, fixups=[])
        app.conf.beat_schedule = {"pillarbox.jobs.sweep": mine}
        app.finalize()
        assert app.conf.beat_schedule["pillarbox.jobs.sweep"] == mine
        app.close()

    def test_eager_mode_is_refused_because_a_drain_must_not_run_in_the_caller(
        self, clock: Clock, celery_app: Celery
    ) -> None:
        celery_app.conf.task_always_eager = True
        with pytest.raises(ImproperlyConfigured, match="immediate"):
            async_task("pillarbox.jobs.deliver_due")
        assert [problem.id for problem in clock.engine.check()] == ["pillarbox.W021"]

    def test_an_app_without_a_broker_is_an_error(self, clock: Clock, celery_app: Celery) -> None:
        celery_app.conf.broker_url = None
        assert [problem.id for problem in clock.engine.check()] == ["pillarbox.E025"]

    @pytest.mark.parametrize(
        ("limits", "expected"),
        [
            ({"task_time_limit": 60}, Deadline(8, 60, "task_time_limit")),
            (
                {"task_time_limit": 60, "task_soft_time_limit": 30},
                Deadline(8, 30, "task_soft_time_limit"),
            ),
        ],
    )
    def test_the_task_time_limits_are_the_kill_time(
        self, clock: Clock, celery_app: Celery, limits: dict[str, int], expected: Deadline
    ) -> None:
        celery_app.conf.update(limits)
        assert clock.engine.deadline() == expected

    def test_a_time_limit_too_near_the_drains_deadline_is_an_error(
        self, clock: Clock, celery_app: Celery
    ) -> None:
        celery_app.conf.task_time_limit = 13
        assert [problem.id for problem in clock.engine.check()] == ["pillarbox.E021"]
