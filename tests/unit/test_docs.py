"""The documentation says what the code does: tables are compared, links followed, blocks read.

The tutorial is really gone through, with a worker and a mail server.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import logging
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from django.core.management.base import CommandParser
from django.dispatch import Signal

import pillarbox
from pillarbox import api, conf, exceptions, outbox, pytest_plugin, signals, testing
from pillarbox.checks import CHECKS
from pillarbox.delivery import outcomes
from pillarbox.delivery.outcomes import Reply, Stage, replies, web
from pillarbox.engines.base import DRAIN_S, JOBS
from pillarbox.management.commands.pillarbox import Command
from pillarbox.management.subcommands import ALL
from pillarbox.models import FINISHED, TRANSITIONS, Attempt, RecipientState, State
from tests.support.processes import wait_for
from tests.support.tutorial import ROOT, reading

DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])

FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r'\[([^]\n]*)\]\(([^)\s]+)(?: "([^"]*)")?\)')
CODE = re.compile(r"`([^`]+)`")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks in one language."""
    return [code for _, kind, code in FENCE.findall(page.read_text()) if kind == language]


def section(page: Path, heading: str) -> str:
    """Return what stands under a heading, up to the next one of its level."""
    level = heading.partition(" ")[0]
    text = page.read_text()
    assert f"\n{heading}\n" in text, f"{page} has no {heading!r}"
    return re.split(rf"\n{level} ", text.partition(f"\n{heading}\n")[2])[0]


def table(text: str, first_column: str) -> list[dict[str, str]]:
    """Return the rows of the table whose first column has that title, by the columns' titles."""
    lines = text.splitlines()
    (start,) = (n for n, line in enumerate(lines) if line.startswith(f"| {first_column} |"))
    titles = cells(lines[start])
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(dict(zip(titles, cells(line), strict=True)))
    return rows


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|\n").split("|")]


def codes(text: str) -> list[str]:
    """Return what stands in backticks."""
    return CODE.findall(text)


def first_codes(text: str, first_column: str) -> list[str]:
    """Return what stands in backticks in the first column of a table."""
    return [name for row in table(text, first_column) for name in codes(row[first_column])]


# ------------------------------------------------------------------------------ every page


@each_page
def test_every_link_leads_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    for _, target, _ in LINK.findall(text):
        if target.startswith(("https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{page}: {target}"


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub and others make of the headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", it.lower()).replace(" ", "-") for it in headings}


@each_page
def test_every_test_that_is_named_is_there(page: Path) -> None:
    for text, target, title in LINK.findall(page.read_text()):
        for name in re.findall(r"test_\w+", f"{title} {text}"):
            if target.endswith(".py") and not text.startswith("tests/"):
                source = (page.parent / target).read_text()
                assert f"def {name}(" in source, f"{page}: {name}"


@each_page
def test_every_python_block_can_be_read(page: Path) -> None:
    for code in blocks(page, "python"):
        compile(code, str(page), "exec")


@each_page
def test_every_settings_block_is_valid(page: Path) -> None:
    for code in blocks(page, "python"):
        for statement in ast.parse(code).body:
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == (
                "PILLARBOX"
            ):
                value = eval(ast.unparse(statement.value), {"timedelta": timedelta})
                assert conf.read(value)[1] == [], code


@each_page
def test_every_check_that_is_mentioned_is_there(page: Path) -> None:
    assert set(re.findall(r"pillarbox\.[EWI]\d{3}", page.read_text())) <= set(CHECKS)


@each_page
def test_every_command_that_is_shown_is_understood(page: Path) -> None:
    for code in blocks(page, "console"):
        for words in re.findall(r"^\$ python manage\.py pillarbox (.+)$", code, re.MULTILINE):
            Command().create_parser("manage.py", "pillarbox").parse_args(words.split())


def test_every_page_is_in_the_list() -> None:
    listed = {
        (DOCS / target).resolve() for _, target, _ in LINK.findall((DOCS / "README.md").read_text())
    }
    assert listed == set(DOCS.rglob("*.md")) - {DOCS / "README.md"}


# -------------------------------------------------------------------------------- reference


def test_the_settings_are_those_of_the_code_with_their_defaults() -> None:
    plain = conf.Settings()
    code = {
        "ENGINE": plain.engine,
        "ENGINE_OPTIONS": dict(plain.engine_options),
        "STREAMS": {name: {} for name in plain.streams},
        "MAILERS": dict(plain.mailers),
        "CONNECTIONS": plain.connections,
        "MAX_DRAINS": plain.max_drains,
        "ATTACHMENTS.limit": plain.attachments_limit_bytes,
        "ATTACHMENTS.storage": plain.attachments_storage,
        "RETENTION.content": plain.retention_content,
        "RETENTION.rows": plain.retention_rows,
        "REDIRECT_TO": list(plain.redirect_to),
    }
    known = {key.partition(".")[0] for key in code}
    assert known == set(conf._TOP_KEYS)
    assert len(code) == len(dataclasses.fields(conf.Settings))
    assert defaults(section(REFERENCE / "settings.md", "## The keys of `PILLARBOX`")) == code
    stream = dataclasses.asdict(conf.Stream()) | {"mailers": []}
    del stream["name"]
    assert defaults(section(REFERENCE / "settings.md", "## The keys of a stream")) == stream


def defaults(text: str) -> dict[str, Any]:
    rows = table(text, "Key")
    scope = {"timedelta": timedelta}
    return {row["Key"].strip("`"): eval(row["Default"].strip("`"), scope) for row in rows}


def test_the_checks_are_those_of_the_code() -> None:
    rows = table((REFERENCE / "checks.md").read_text(), "Id")
    assert {row["Id"].strip("`"): row["When"] for row in rows} == dict(CHECKS)
    assert [row["Id"] for row in rows] == [f"`{id}`" for id in CHECKS]
    assert all(row["What to do"] for row in rows)


def test_the_states_are_those_of_the_code() -> None:
    page = REFERENCE / "states.md"
    rows = table(section(page, "## What each means"), "State")
    finished = {"yes": True, "no": False}
    assert {row["State"].strip("`"): finished[row["Finished"]] for row in rows} == {
        state.value: state in FINISHED for state in State
    }
    recipients = section(page, "## What became of each recipient")
    assert first_codes(recipients, "State") == RecipientState.values
    attempts = section(page, "## What became of each attempt")
    assert set(first_codes(attempts, "Result")) == set(Attempt.Result.values)


def test_the_transitions_are_those_of_the_code_in_the_table_and_in_the_diagram() -> None:
    text = (REFERENCE / "states.md").read_text()
    code = {(before.value, after.value) for before in State for after in TRANSITIONS[before]}
    rows = table(text, "From")
    assert {(row["From"].strip("`"), to) for row in rows for to in codes(row["To"])} == code
    assert [row["From"].strip("`") for row in rows] == [state.value for state in TRANSITIONS]
    (diagram,) = blocks(REFERENCE / "states.md", "mermaid")
    assert set(re.findall(r"(\w+) --> (\w+)", diagram)) == code
    ends = {state.value for state in State if not TRANSITIONS[state]}
    assert set(re.findall(r"(\w+) --> \[\*\]", diagram)) == ends


def test_the_signals_are_those_of_the_code() -> None:
    code = [name for name, value in vars(signals).items() if isinstance(value, Signal)]
    rows = table((REFERENCE / "signals.md").read_text(), "Signal")
    assert [row["Signal"].strip("`") for row in rows] == code


def test_the_subcommands_and_their_options_are_those_of_the_code() -> None:
    page = REFERENCE / "commands.md"
    headings = re.findall(r"^## (\w+)$", page.read_text(), re.MULTILINE)
    assert headings == [subcommand.name for subcommand in ALL]
    for subcommand in ALL:
        text = section(page, f"## {subcommand.name}")
        assert documented_options(text) == options(subcommand.add_arguments), subcommand.name
        (failure,) = re.findall(r"^Exit code 1: (.+)", text, re.MULTILINE)
        assert bool(subcommand.failure) == (failure != "none of its own.")


def documented_options(text: str) -> list[str]:
    if "| Option |" not in text:
        return []
    return [row["Option"].strip("`") for row in table(text, "Option")]


def options(add_arguments: Callable[[CommandParser], None]) -> list[str]:
    """Return what a subcommand takes, as the page writes it: ``--wait SECONDS``."""
    parser = CommandParser(add_help=False)
    add_arguments(parser)
    return [_written(action) for action in parser._actions]


def _written(action: argparse.Action) -> str:
    if not action.option_strings:
        return str(action.metavar)
    value = f" {action.metavar or action.dest.upper()}" if action.nargs != 0 else ""
    return f"{action.option_strings[-1]}{value}"


def test_the_signatures_are_those_of_the_code() -> None:
    scope: dict[str, Any] = {}
    for code in blocks(REFERENCE / "api.md", "python"):
        exec(compile(f"from __future__ import annotations\n{code}", "api.md", "exec"), scope)
    written = {name: value for name, value in scope.items() if inspect.isfunction(value)}
    homes = {name: outbox if hasattr(outbox, name) else pillarbox for name in written}
    for name, function in written.items():
        assert inspect.signature(function) == inspect.signature(getattr(homes[name], name)), name
    assert set(written) | {"asend_email", "asend_emails"} == {
        *pillarbox.__all__,
        *(set(outbox.__all__) - {"Options", "enqueue", "enqueue_many"}),
    }


def test_the_arguments_are_explained() -> None:
    text = section(REFERENCE / "api.md", "## `send_email`")
    assert first_codes(text, "Argument") == list(inspect.signature(api.send_email).parameters)
    ride = section(REFERENCE / "api.md", "## `send_emails`").partition("Its keys are")[2]
    known = {field.name for field in dataclasses.fields(outbox.Options)} - {"using"}
    assert set(codes(ride)) == known


def test_the_exceptions_are_those_of_the_code() -> None:
    rows = table((REFERENCE / "api.md").read_text(), "Exception")
    code = {
        name: [base.__name__ for base in value.__bases__]
        for name, value in vars(exceptions).items()
        if inspect.isclass(value)
    }
    assert {row["Exception"].strip("`"): codes(row["Is a"]) for row in rows} == code


def test_the_loggers_are_those_of_the_code() -> None:
    page = REFERENCE / "logging.md"
    names = set()
    for path in (ROOT / "src").rglob("*.py"):
        names |= set(re.findall(r'getLogger\("(pillarbox\.\w+)"\)', path.read_text()))
    assert set(first_codes(page.read_text(), "Logger")) == names


@pytest.mark.django_db
def test_the_attributes_of_a_log_record_are_those_of_the_code(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "pillarbox.delivery")
    api.send_email("Subject", "Body", ["ada@example.org"])
    testing.deliver()
    (record,) = (it for it in caplog.records if it.name == "pillarbox.delivery")
    plain = vars(logging.makeLogRecord({})).keys() | {"message", "asctime"}
    documented = first_codes((REFERENCE / "logging.md").read_text(), "Attribute")
    assert set(documented) == vars(record).keys() - plain


def test_the_engines_are_those_of_the_code() -> None:
    page = REFERENCE / "engines.md"
    rows = table(section(page, "## The engines"), "Engine")
    assert [row["Engine"].strip("`") for row in rows] == list(conf.ENGINES)
    says = {"yes": True, "no": False}
    for row in rows:
        engine = import_module(f"pillarbox.engines.{row['Engine'].strip('`')}").Engine({})
        assert says[row["Delay"]] == engine.supports_delay
        assert says[row["Periodic"]] == engine.supports_periodic
        assert tuple(codes(row["Options"])) == engine.known_options
        limits = table(section(page, "## How long a drain runs"), "Engine")
        (limit,) = (it for it in limits if it["Engine"] == row["Engine"])
        has_deadline = engine.deadline().drain_s is not None
        assert (limit["Claims no more after"] == f"{DRAIN_S:g} s") == has_deadline
    assert first_codes(page.read_text(), "Job") == list(JOBS)


def test_the_names_for_tests_are_those_of_the_code() -> None:
    text = (REFERENCE / "testing.md").read_text()
    assert set(first_codes(text, "Name")) == set(testing.__all__)
    public = {
        name
        for name, value in vars(testing.ScriptedMailer).items()
        if inspect.isfunction(value) and value.__annotations__.get("return") == "ScriptedMailer"
    }
    methods = {code.partition("(")[0] for code in first_codes(text, "Method")}
    assert methods == {name for name in public if not name.startswith("_")}
    fixtures = {name for name in vars(pytest_plugin) if name.startswith("pillarbox_")}
    assert set(first_codes(text, "Fixture")) == fixtures


# ------------------------------------------------------------------------------ explanation

WORDS = {
    "mailer": outcomes.MailerDown,
    "retry": outcomes.Retry,
    "fail": outcomes.Fail,
    "in doubt": outcomes.InDoubt,
}


def test_the_table_of_replies_is_what_the_code_makes_of_them() -> None:
    page = DOCS / "explanation" / "outcomes.md"
    columns = {"4xx": 451, "5xx": 550, "421": 421, "530, 534, 535, 538": 535}
    rows = table(page.read_text(), "Stage")
    assert len(rows) == 6
    for row in rows:
        stage = Stage(codes(row["Stage"])[0])
        for title, code in columns.items():
            outcome = replies.refused(Reply(code=code), stage=stage)
            assert type(outcome) is WORDS[row[title]], (stage, title)
        silent = replies.cut_off(Reply(), stage=stage)
        assert type(silent) is WORDS[row["No reply, or none that is SMTP"]], stage
    kinds = {kind.__name__ for kind in outcomes.Outcome.__subclasses__()}
    assert set(first_codes(page.read_text(), "Outcome")) == kinds


def test_the_table_of_http_answers_is_what_the_code_makes_of_them() -> None:
    rows = table((DOCS / "explanation" / "outcomes.md").read_text(), "Answer")
    asked = {"1": 100, "2": 200, "3": 302, "other 4": 404, "other 5": 500}
    now = datetime.now(UTC)
    for row in rows:
        statuses: Iterable[int] = map(int, re.findall(r"\d{3}", row["Answer"]))
        groups = re.findall(r"((?:other )?\d)xx", row["Answer"])
        for status in [*statuses, *(asked[group] for group in groups)]:
            outcome = web.judge_status(status, {}, Reply(), Stage.SEND, now)
            assert type(outcome) is WORDS[re.split("[:,]", row["Outcome"])[0]], status


# ------------------------------------------------------------------------------ the tutorial


@pytest.mark.slow
def test_the_tutorial_works(tmp_path: Path) -> None:
    said: dict[str, list[str]] = {}
    with reading(tmp_path) as reader:
        for step, output in reader.read():
            said.setdefault(step, []).append(output)
            if {"aiosmtpd", "qcluster"} <= reader.processes.keys():
                wait_for(lambda: "Subject: Password reset" in reader.printed("aiosmtpd"))
        arrived = reader.printed("aiosmtpd")
    assert [arrived.count(f"Subject: {it}") for it in ("Welcome", "Password reset")] == [1, 1]
    assert "Subject: Your order" not in arrived
    before, after = said["python manage.py pillarbox status"]
    assert re.search(r"^default +2 .* 2 +0 +0 +0$", before, re.MULTILINE)
    assert re.search(r"^default +0 .* 0 +0 +0 +0 +2$", after, re.MULTILINE)
    assert "All is well." in said["python manage.py pillarbox doctor"][0]
    shell = [output for step, (output, *_) in said.items() if step.startswith("# python manage.py")]
    assert shell[0] == "queued\n1\n2\n"
    assert "ada@example.org sent 250 OK\nsmtp sent" in shell[1]
