"""What the system checks find in settings, and that a plain project has nothing wrong in it."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core import mail
from django.core.checks import CheckMessage, run_checks
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils.log import AdminEmailHandler
from pytest_django import Settings

import pillarbox
from pillarbox import compat
from pillarbox.checks import CHECKS, TAG, check_database, check_settings, settings_problems
from pillarbox.engines import get_engine

QUEUE = "pillarbox.backends.queue.EmailBackend"
SMTP = "django.core.mail.backends.smtp.EmailBackend"
SOURCE = Path(pillarbox.__file__).parent


def found() -> dict[str, CheckMessage]:
    """Return what the checks find, by id."""
    return {str(message.id): message for message in check_settings()}


def use_mailers(settings: Settings, mailers: dict[str, Any], **more: Any) -> None:
    """Define mailers as the Django version in use wants it."""
    if compat.HAS_MAILERS:
        settings.MAILERS = mailers
        settings.PILLARBOX = more
    else:
        settings.EMAIL_BACKEND = mailers.get("default", {}).get("BACKEND", SMTP)
        settings.PILLARBOX = {"MAILERS": mailers, **more}


def queue(**options: Any) -> dict[str, Any]:
    """Return the entry of a mailer that queues."""
    return {"BACKEND": QUEUE, "OPTIONS": options}


def test_sound_settings_have_no_findings() -> None:
    assert found() == {}


def test_every_id_in_the_code_is_in_the_list_and_the_other_way_round() -> None:
    code = "\n".join(path.read_text() for path in SOURCE.rglob("*.py") if path.name != "ids.py")
    given = {f"pillarbox.{it}" for it in re.findall(r'"(?:pillarbox\.)?([EWI]0\d\d)"', code)}
    assert given == set(CHECKS)


def test_the_checks_run_under_their_tag(settings: Settings) -> None:
    settings.PILLARBOX = {"ENGIN": "worker"}
    assert "pillarbox.E002" in {message.id for message in run_checks(tags=[TAG])}


# What is wrong in PILLARBOX itself.


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], "pillarbox.E001"),
        ({"CONNECTIONS": 0}, "pillarbox.E001"),
        ({"CONECTIONS": 4}, "pillarbox.E002"),
        ({"ENGINE": "sidekiq"}, "pillarbox.E003"),
        ({"STREAMS": {"two words": {}}}, "pillarbox.E004"),
        ({"STREAMS": {"default": {"mailers": ["a", "b", "a"]}}}, "pillarbox.E005"),
        ({"STREAMS": {"bulk": {"rate": "14/fortnight"}}}, "pillarbox.E006"),
        ({"ENGINE_OPTIONS": {"clutser": "x"}}, "pillarbox.E020"),
    ],
)
def test_a_wrong_value_is_an_error(settings: Settings, given: object, expected: str) -> None:
    settings.PILLARBOX = given
    assert expected in found()


def test_an_unknown_key_is_told_the_nearest_known_one(settings: Settings) -> None:
    settings.PILLARBOX = {"CONECTIONS": 4}
    assert found()["pillarbox.E002"].hint == "Did you mean 'CONNECTIONS'?"


def test_all_problems_are_shown_at_once(settings: Settings) -> None:
    settings.PILLARBOX = {"CONECTIONS": 4, "ENGINE": "sidekiq"}
    settings.USE_TZ = False
    assert set(found()) == {"pillarbox.E002", "pillarbox.E003", "pillarbox.E017"}


def test_storage_that_is_not_in_storages_is_an_error(settings: Settings) -> None:
    settings.PILLARBOX = {"ATTACHMENTS": {"storage": "attic"}}
    assert "default, staticfiles" in str(found()["pillarbox.E007"].hint)
    settings.PILLARBOX = {"ATTACHMENTS": {"storage": "default"}}
    assert found() == {}


def test_rows_that_go_before_their_content_are_warned_about(settings: Settings) -> None:
    settings.PILLARBOX = {"RETENTION": {"content": timedelta(days=30), "rows": timedelta(days=7)}}
    assert "pillarbox.W004" in found()


def test_a_redirection_to_no_address_is_an_error(settings: Settings) -> None:
    settings.PILLARBOX = {"REDIRECT_TO": ["staging"]}
    assert "pillarbox.E009" in found()


# The engine.


def test_an_engine_without_its_library_is_an_error_that_says_what_to_install(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "celery", None)
    monkeypatch.delitem(sys.modules, "pillarbox.engines.celery", raising=False)
    settings.PILLARBOX = {"ENGINE": "celery"}
    error = found()["pillarbox.E016"]
    assert "celery is not installed" in error.msg
    assert 'pip install "django-pillarbox[celery]"' in str(error.hint)
    assert [problem.id for problem in settings_problems()] == ["pillarbox.E016"]
    with pytest.raises(ImproperlyConfigured):
        get_engine()


def test_what_the_engine_finds_in_its_own_settings_is_shown(settings: Settings) -> None:
    settings.Q_CLUSTER = {"orm": "default", "timeout": 5, "retry": 6}
    assert {"pillarbox.E021", "pillarbox.E024"} <= set(found())


# Sender and log handlers.


def test_the_default_sender_of_django_is_warned_about(settings: Settings) -> None:
    settings.DEFAULT_FROM_EMAIL = "webmaster@localhost"
    assert "which other servers refuse" in found()["pillarbox.W003"].msg


@pytest.mark.parametrize("sender", ["", "The shop", "shop@", "a@example.org\nBcc: b@example.org"])
def test_a_sender_that_is_no_address_is_an_error(settings: Settings, sender: str) -> None:
    settings.DEFAULT_FROM_EMAIL = sender
    assert "pillarbox.E008" in found()


def test_error_mail_that_queues_gets_a_hint(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers = [AdminEmailHandler()]
    monkeypatch.setattr(logging.getLogger("shop"), "handlers", handlers)
    use_mailers(settings, {"default": queue(using="smtp"), "smtp": {"BACKEND": SMTP}})
    assert found() == {}
    settings.ADMINS = ["ada@example.org"] if compat.MODERN_MESSAGES else [("A", "a@example.org")]
    assert set(found()) == {"pillarbox.I001"}


def test_error_mail_that_is_sent_at_once_gets_none(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for logger in [logging.root, *logging.root.manager.loggerDict.values()]:
        if any(isinstance(it, AdminEmailHandler) for it in getattr(logger, "handlers", ())):
            monkeypatch.setattr(logger, "handlers", [])
    use_mailers(settings, {"default": queue(using="smtp"), "smtp": {"BACKEND": SMTP}})
    settings.ADMINS = ["ada@example.org"] if compat.MODERN_MESSAGES else [("A", "a@example.org")]
    direct: dict[str, Any] = {"using": "smtp"} if compat.HAS_MAILERS else {"email_backend": SMTP}
    monkeypatch.setattr(logging.getLogger("shop"), "handlers", [AdminEmailHandler(**direct)])
    assert found() == {}


# Mailers.


def test_a_queueing_backend_with_a_mailer_to_use_is_sound(settings: Settings) -> None:
    use_mailers(settings, {"default": queue(using="smtp"), "smtp": {"BACKEND": SMTP}})
    assert found() == {}


def test_a_queueing_backend_with_nothing_to_deliver_by_is_an_error(settings: Settings) -> None:
    use_mailers(settings, {"default": queue()})
    assert '"OPTIONS": {"using": "smtp"}' in str(found()["pillarbox.E010"].hint)


def test_streams_that_all_name_a_mailer_need_no_default(settings: Settings) -> None:
    streams = {"default": {"mailers": ["smtp"]}}
    use_mailers(settings, {"default": queue(), "smtp": {"BACKEND": SMTP}}, STREAMS=streams)
    assert found() == {}
    use_mailers(
        settings,
        {"default": queue(), "smtp": {"BACKEND": SMTP}},
        STREAMS={**streams, "bulk": {}},
    )
    assert set(found()) == {"pillarbox.E010"}


def test_a_mailer_that_queues_again_is_an_error(settings: Settings) -> None:
    mailers = {"default": queue(using="second"), "second": queue(using="smtp"), "smtp": {}}
    use_mailers(settings, mailers)
    assert 'names "second", which queues again' in found()["pillarbox.E011"].msg
    assert "smtp" in str(found()["pillarbox.E011"].hint)
    use_mailers(settings, mailers, STREAMS={"bulk": {"mailers": ["default"]}})
    assert "pillarbox.E011" in found()


def test_a_mailer_that_is_not_defined_is_an_error(settings: Settings) -> None:
    use_mailers(settings, {"default": queue(using="smpt"), "smtp": {"BACKEND": SMTP}})
    assert set(found()) == {"pillarbox.E012"}
    use_mailers(settings, {"default": {"BACKEND": SMTP}}, STREAMS={"bulk": {"mailers": ["ses"]}})
    assert found()["pillarbox.E012"].hint == "The settings define: default."


def test_a_stream_and_a_queueing_backend_that_disagree_are_an_error(settings: Settings) -> None:
    mailers = {"default": queue(using="smtp"), "smtp": {}, "ses": {}}
    use_mailers(settings, mailers, STREAMS={"default": {"mailers": ["ses"]}})
    assert set(found()) == {"pillarbox.E014"}
    use_mailers(
        settings, mailers, STREAMS={"default": {"mailers": ["smtp"]}, "bulk": {"mailers": ["ses"]}}
    )
    assert found() == {}


def test_a_backend_that_cannot_be_imported_is_an_error(settings: Settings) -> None:
    use_mailers(settings, {"default": {"BACKEND": SMTP}, "ses": {"BACKEND": "no.such.Backend"}})
    assert "install the package" in str(found()["pillarbox.E015"].hint)


def test_options_that_are_no_dictionary_are_an_error(settings: Settings) -> None:
    use_mailers(settings, {"default": {"BACKEND": SMTP}, "ses": {"OPTIONS": ["host"]}})
    assert "pillarbox.E015" in found()


if compat.HAS_MAILERS:

    def test_mailers_without_a_default_are_an_error(settings: Settings) -> None:
        use_mailers(settings, {"smtp": {"BACKEND": SMTP}})
        assert set(found()) == {"pillarbox.E010"}
        streams = {"default": {"mailers": ["smtp"]}}
        use_mailers(settings, {"smtp": {"BACKEND": SMTP}}, STREAMS=streams)
        assert found() == {}

    def test_two_dictionaries_of_mailers_are_an_error(settings: Settings) -> None:
        settings.PILLARBOX = {"MAILERS": {"smtp": {"BACKEND": SMTP}}}
        assert set(found()) == {"pillarbox.E013"}

else:

    def test_a_default_that_django_does_not_read_is_warned_about(
        settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mailers = {"default": queue(using="smtp"), "smtp": {"BACKEND": SMTP}}
        settings.PILLARBOX = {"MAILERS": mailers}
        settings.EMAIL_BACKEND = SMTP
        assert found() == {}  # the test runner swaps EMAIL_BACKEND, and that is no fault
        monkeypatch.delattr(mail, "outbox")
        assert set(found()) == {"pillarbox.W005"}

    def test_a_present_backend_that_cannot_be_imported_is_an_error(settings: Settings) -> None:
        settings.EMAIL_BACKEND = "no.such.Backend"
        assert set(found()) == {"pillarbox.E015"}


# Time and SQLite.


def test_naive_moments_are_an_error(settings: Settings) -> None:
    settings.USE_TZ = False
    assert "pillarbox.E017" in found()


@pytest.fixture
def sqlite(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Return the settings of a SQLite database that stands in for the one of the messages."""
    from django.db.backends.sqlite3.base import DatabaseWrapper

    given: dict[str, Any] = {
        **connections["default"].settings_dict,
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": tmp_path / "shop.sqlite3",
        "OPTIONS": {"transaction_mode": "IMMEDIATE"},
        "TIME_ZONE": None,
    }
    connection = DatabaseWrapper(given, "default")
    monkeypatch.setattr(connections._connections, "default", connection)  # type: ignore[attr-defined]
    yield given
    connection.close()


@pytest.fixture
def asked(django_db_blocker: Any, sqlite: dict[str, Any]) -> Any:
    """Return a function that runs the check which asks the database, and gives its ids."""

    def ask(*databases: str) -> list[str | None]:
        with django_db_blocker.unblock():
            return [message.id for message in check_database(databases=databases)]

    return ask


def test_a_time_zone_of_the_database_is_an_error(sqlite: dict[str, Any]) -> None:
    sqlite["TIME_ZONE"] = "Europe/Vienna"
    assert "pillarbox.E018" in found()


def test_sqlite_without_immediate_transactions_is_warned_about(sqlite: dict[str, Any]) -> None:
    assert found() == {}
    del sqlite["OPTIONS"]["transaction_mode"]
    assert set(found()) == {"pillarbox.W002"}


def test_sqlite_without_a_write_ahead_log_is_warned_about(
    sqlite: dict[str, Any], asked: Any, django_db_blocker: Any
) -> None:
    assert asked("default") == ["pillarbox.W001"]
    assert not sqlite["NAME"].exists(), "a check makes no database"
    with django_db_blocker.unblock(), connections["default"].cursor() as cursor:
        cursor.execute("CREATE TABLE parcel (id INTEGER)")
    assert asked("default") == ["pillarbox.W001"]
    with django_db_blocker.unblock(), connections["default"].cursor() as cursor:
        cursor.execute("PRAGMA journal_mode=WAL")
    assert asked("default") == []


def test_a_write_ahead_log_that_the_settings_ask_for_is_believed(
    sqlite: dict[str, Any], asked: Any
) -> None:
    sqlite["OPTIONS"]["init_command"] = "PRAGMA synchronous=NORMAL; PRAGMA journal_mode = WAL;"
    assert asked("default") == []


def test_the_database_is_only_asked_where_django_allows_it(asked: Any) -> None:
    assert asked() == []
    assert asked("other") == []


def test_sqlite_in_memory_needs_neither(sqlite: dict[str, Any], asked: Any) -> None:
    sqlite["NAME"] = ":memory:"
    sqlite["OPTIONS"] = {}
    assert asked("default") == []
    assert found() == {}


# Whole projects, as processes of their own.


def check(tmp_path: Path, settings: str) -> subprocess.CompletedProcess[str]:
    """Run ``manage.py check`` in a project with these settings."""
    (tmp_path / "project_settings.py").write_text(
        'SECRET_KEY = "of no worth"\n'
        "DATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': 'x.sqlite3'}}\n"
        f"{settings}\n"
    )
    paths = [str(tmp_path), str(SOURCE.parent), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "project_settings",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    command = [sys.executable, "-m", "django", "check"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_project_that_sets_apps_and_the_cluster_alone_has_no_error(tmp_path: Path) -> None:
    done = check(
        tmp_path,
        'INSTALLED_APPS = ["django_q", "pillarbox"]\n'
        'Q_CLUSTER = {"orm": "default", "timeout": 60, "retry": 120}\n',
    )
    assert done.returncode == 0
    assert re.findall(r"pillarbox\.\w+", done.stderr) == ["pillarbox.W002", "pillarbox.W003"]


def test_an_app_of_the_engine_that_is_not_installed_is_a_check_error(tmp_path: Path) -> None:
    done = check(tmp_path, 'INSTALLED_APPS = ["pillarbox"]\n')
    assert done.returncode == 1
    assert {"pillarbox.E022", "pillarbox.E023"} <= set(re.findall(r"pillarbox\.\w+", done.stderr))
    assert "Traceback" not in done.stderr


def test_a_wrong_key_is_a_check_error_and_no_traceback(tmp_path: Path) -> None:
    done = check(
        tmp_path,
        'INSTALLED_APPS = ["pillarbox"]\nPILLARBOX = {"ENGINE": "worker", "CONECTIONS": 4}\n',
    )
    assert done.returncode == 1
    assert "pillarbox.E002" in done.stderr
    assert "Traceback" not in done.stderr
