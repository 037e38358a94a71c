"""The benchmark's own parts are right: what it counts, what it compares, what its page says."""

from __future__ import annotations

import json
import os
import smtplib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from django.db import connection
from django.utils import timezone

import pillarbox
from benchmarks import (
    child,
    filling,
    kept,
    parts,
    performance,
    report,
    sampling,
    scenarios,
    sinks,
    subjects,
    tables,
)
from benchmarks.__main__ import wanted
from benchmarks.mail import mails
from benchmarks.meter import Meter
from benchmarks.place import Place
from benchmarks.scenarios import compose, drain, flat, latency
from benchmarks.subjects import composers, pillarbox_filled
from benchmarks.subjects.base import Subject
from pillarbox import mime
from pillarbox.models import Attempt, Drain, Message, Recipient, State
from tests.support.processes import wait_for


def entry(name: str, *rates: float) -> dict[str, Any]:
    rounds = [dict.fromkeys(drain.Drain.columns, rate) for rate in rates]
    middle = sorted(rates)[len(rates) // 2]
    return {
        "name": name,
        "title": name.title(),
        "setup": "as it is",
        "median": dict.fromkeys(drain.Drain.columns, middle),
        "rounds": rounds,
    }


def result(case: str, *entries: dict[str, Any]) -> dict[str, Any]:
    return {
        "case": case,
        "rounds": 3,
        "date": "2026-01-02",
        "machine": {"cpu": "a processor", "cores": 2, "memory_gb": 4.0, "system": "Linux 1"},
        "load_average": 0.1,
        "versions": {"Django": "6.1.3"},
        "postgresql": {"synchronous_commit": "on"},
        "subjects": list(entries),
    }


class TestPage:
    def test_it_is_what_the_report_makes_of_the_results(self) -> None:
        found = report.load()
        assert report.PAGE.exists() == bool(found)
        if found:
            assert report.PAGE.read_text() == report.page(found)
            plots = [report.plot_path(one) for results in found.values() for one in results]
            assert sorted(report.PLOTS.glob("*.svg")) == sorted(plots)

    def test_it_has_the_figures_the_machine_and_the_settings(self) -> None:
        shown = report.page(
            {"drain_local": [result("drain_local", entry("pillarbox_2", 90, 100, 110))]}
        )
        assert "| Pillarbox_2 | 100 (90 to 110) | 1 × | 100 (90 to 110) |" in shown
        assert "- 2 cores of a processor, 4.0 GB, Linux 1" in shown
        assert "Measured 2026-01-02, medians of 3 rounds, load average before it 0.1." in shown
        assert "`synchronous_commit = on`" in shown

    def test_the_page_of_performance_is_what_the_results_make_of_it(self) -> None:
        text = performance.PAGE.read_text()
        assert performance.page(text) == text
        soak = kept.newest("soak")
        plots = [performance.plot_path(soak)] if soak else []
        assert sorted(performance.PLOTS.glob("*.svg")) == plots


BLOCK = "<!-- {name}: python -m benchmarks.report writes this -->\nold\n<!-- end -->"


def profile(cpu_s: float, ledger: float) -> dict[str, Any]:
    shares = {part: dict.fromkeys(parts.LAYERS, 0.0) for part in parts.PARTS}
    shares["ledger"]["django"], shares["loop"]["own"] = ledger, 100 - ledger
    figures = dict.fromkeys(performance.FIGURES, 0.0) | {"worker_cpu_s_per_1000": cpu_s}
    return {
        **result("profile"),
        "versions": {"Django": "6.1.3", "PostgreSQL": "17.1"},
        "median": figures,
        "rounds": [figures] * 5,
        "samples": 1200,
        "shares": shares,
        "instructions_per_mail": None,
        "instructions": "not available: no valgrind here",
    }


class TestPerformance:
    def test_a_profile_tells_the_time_of_each_part_before_and_after(self, tmp_path: Path) -> None:
        kept.write(profile(0.7, 60), "profile-before", tmp_path)
        text = performance.page(BLOCK.format(name="profile"), tmp_path)
        assert "| begin and record | 420 µs (60 %) |" in text
        kept.write(profile(0.2, 25), "profile-after", tmp_path)
        text = performance.page(text, tmp_path)
        assert "| begin and record | 420 µs (60 %) | 50 µs (25 %) |" in text
        assert "| Django | 420 µs (60 %) | 50 µs (25 %) |" in text
        assert "not available: no valgrind here" in text
        assert "old" not in text

    def test_a_full_table_is_compared_with_the_empty_one(self, tmp_path: Path) -> None:
        entries = []
        for name, rate in (("pillarbox_among_0", 200), ("pillarbox_among_1m", 150)):
            figures = dict.fromkeys(flat.Flat.columns, rate)
            entries.append({"name": name, "title": name, "median": figures})
        kept.write(result("flat", *entries), "flat-django-6.1", tmp_path)
        text = performance.page(BLOCK.format(name="flat"), tmp_path)
        assert "| pillarbox_among_1m | 150 (75 %) | 150 (75 %) |" in text

    def test_what_is_not_measured_says_so(self, tmp_path: Path) -> None:
        for name in ("profile", "flat", "soak"):
            assert "Not measured yet." in performance.page(BLOCK.format(name=name), tmp_path)


class TestParts:
    @staticmethod
    def counted(*frames: str) -> dict[str, dict[str, int]]:
        found = parts.count(parts.stacks(f"{';'.join(frames)} 3\n"))
        return {part: dict(layers) for part, layers in found.items() if layers}

    src, site = "/shop/src/pillarbox", "/venv/lib/python3/site-packages"
    loop = f"_step ({src}/delivery/drain.py:10)"

    def test_what_a_part_calls_is_its_own(self) -> None:
        ledger = f"commit ({self.src}/delivery/ledger.py:20)"
        run = f"run ({self.src}/delivery/database.py:30)"
        orm = f"execute_sql ({self.site}/django/db/models/sql/compiler.py:40)"
        driver = f"execute ({self.site}/psycopg/cursor.py:50)"
        assert self.counted(self.loop, ledger, run, orm) == {"ledger": {"django": 3}}
        assert self.counted(self.loop, ledger, run, orm, driver) == {"ledger": {"driver": 3}}

    def test_what_no_part_names_is_the_loop(self) -> None:
        select = "select (/usr/lib/python3/selectors.py:60)"
        assert self.counted(self.loop) == {"loop": {"own": 3}}
        assert self.counted(self.loop, select) == {"loop": {"library": 3}}

    def test_letters_are_composed_and_other_senders_talk(self) -> None:
        letters = f"compose ({self.src}/delivery/senders/letters.py:70)"
        wire = f"write ({self.src}/delivery/senders/wire.py:80)"
        assert self.counted(self.loop, letters) == {"compose": {"own": 3}}
        assert self.counted(self.loop, wire) == {"wire": {"own": 3}}

    def test_the_start_of_the_process_does_not_count(self) -> None:
        start = f"setup ({self.site}/django/__init__.py:24)"
        imported = f"<module> ({self.src}/delivery/drain.py:1)"
        assert self.counted(start) == {}
        assert self.counted(start, imported) == {}

    def test_every_module_that_is_named_is_there(self) -> None:
        src = Path(pillarbox.__file__).parent
        for start in parts.MODULES:
            assert (
                (src / start).is_dir()
                or (src / start).with_suffix(".py").exists()
                or (src / start / "__init__.py").exists()
            ), start


class TestChoice:
    def test_what_takes_gigabytes_is_run_by_its_whole_name_alone(self) -> None:
        chosen = {only: {c.name for c in scenarios.ALL if wanted(c, only)} for only in ("", "l")}
        assert "flat" in chosen[""]
        assert "large" not in chosen[""]
        assert chosen["l"] == {"latency_5", "latency_200"}
        assert [c.name for c in scenarios.ALL if wanted(c, "flat,large")] == ["flat", "large"]


def test_sqlite_is_set_up_as_its_page_recommends() -> None:
    place = Place("pillarbox_sqlite", "/somewhere", "measured", 0, 0, vendor="sqlite")
    page = (Path(pillarbox.__file__).parents[2] / "docs/how-to/databases.md").read_text()
    options = place.database_settings()["OPTIONS"]
    for key, value in options.items():
        assert f'"{key}": {json.dumps(value)}' in page


@pytest.mark.django_db(transaction=True)
class TestFullTables:
    subject = pillarbox_filled.Filled("test", "a test's", cases=())

    @pytest.fixture(autouse=True)
    def needs_postgresql(self) -> None:
        if connection.vendor != "postgresql":
            pytest.skip("The tables are filled in PostgreSQL's SQL.")

    def test_finished_mail_is_a_year_old_at_most_and_a_month_of_it_has_content(self) -> None:
        self.subject.enqueue(next(mails(1)))
        filling.finished(365)
        now, month = timezone.now(), timedelta(days=30)
        finished = Message.objects.filter(state=State.SENT)
        assert finished.count() == Message.objects.count() == 365
        assert finished.filter(finished_at__lt=now - timedelta(days=365)).count() == 0
        assert finished.exclude(content="").count() == 30
        assert finished.exclude(content="").filter(finished_at__lt=now - month).count() == 0
        assert Recipient.objects.count() == Attempt.objects.count() == 365

    def test_every_other_queued_mail_is_due_later(self) -> None:
        self.subject.enqueue(next(mails(1)))
        filling.queued(100)
        queued = Message.objects.filter(state=State.QUEUED)
        assert queued.count() == Message.objects.count() == 100
        assert queued.filter(due_at__gt=timezone.now()).count() == 50
        assert len(set(queued.values_list("message_id", flat=True))) == 100

    def test_a_timed_claim_leaves_everything_as_it_was(self) -> None:
        self.subject.enqueue_bulk(list(mails(pillarbox_filled.CLAIMED)))
        assert self.subject.claim_ms() > 0
        assert Message.objects.filter(state=State.QUEUED, drain=None).count() == 100
        assert not Drain.objects.exists()

    def test_a_sample_of_the_soak_tells_the_queue_and_the_tables(self) -> None:
        self.subject.enqueue_bulk(list(mails(3)))

        class Here:
            def connect(self, database: str) -> Any:
                params = connection.get_connection_params()
                for unknown in ("cursor_factory", "context", "prepare_threshold"):
                    params.pop(unknown, None)
                return psycopg.connect(**params, autocommit=True)

        sample = sampling.sample(cast("Any", Here()), "")
        assert sample["queued"] == 3
        assert sample["wait_p50_ms"] == 0
        assert set(sample["tables"]) == set(sampling.TABLES)
        assert "pillarbox_message_claim" in sample["indexes_mb"]


class TestRatios:
    def test_a_rate_is_better_if_it_is_higher(self) -> None:
        case = drain.CASES[0]
        rows = tables.rows(case, result(case.name, entry("pillarbox_2", 100), entry("other", 40)))
        assert [row[2] for row in rows] == ["1 ×", "2.5 ×"]

    def test_a_wait_is_better_if_it_is_shorter(self) -> None:
        case = latency.CASES[0]
        waits = [
            {"name": name, "title": name, "setup": "", "median": figures, "rounds": [figures]}
            for name, ms in (("pillarbox", 10), ("other", 5))
            for figures in [dict.fromkeys(case.columns, ms)]
        ]
        assert [row[2] for row in tables.rows(case, result(case.name, *waits))] == ["1 ×", "0.5 ×"]

    def test_what_does_not_run_says_so(self) -> None:
        case = drain.CASES[0]
        broken = {"name": "other", "title": "Other", "setup": "", "problem": "does not run"}
        (row,) = tables.rows(case, result(case.name, broken))
        assert row[:2] == ["Other", "does not run"]
        assert len(row) == len(tables.titles(case))


class TestRendering:
    @pytest.mark.parametrize("subject", composers.SUBJECTS, ids=lambda subject: subject.name)
    def test_every_renderer_is_timed_by_messages_of_its_own(self, subject: Subject) -> None:
        figures = child.render(subject, 5)
        assert figures["per_s"] > 0
        assert figures["client_cpu_s_per_1000"] > 0

    def test_the_messages_are_as_a_worker_has_them_and_no_two_are_alike(self) -> None:
        one, other = (mail.pinned_email() for mail in mails(2))
        data = mime.compose(one, eight_bit=True)
        assert data is not None
        assert one.body.replace("\n", "\r\n").encode() in data
        assert one.extra_headers["Message-ID"] != other.extra_headers["Message-ID"]

    def test_it_says_how_many_times_as_fast_the_composer_is(self) -> None:
        (case,) = compose.CASES
        entries = [
            {"name": name, "title": name, "setup": "", "median": figures, "rounds": [figures]}
            for name, rate in (("pillarbox_composer", 60_000), ("django_message", 400))
            for figures in [{"per_s": rate, "cpu_us": 1e6 / rate}]
        ]
        rows = tables.rows(case, result(case.name, *entries))
        assert rows == [
            ["pillarbox_composer", "60,000", "1 ×", "16.7"],
            ["django_message", "400", "150 ×", "2,500"],
        ]


@pytest.mark.parametrize(
    ("value", "text"), [(0.01234, "0.0123"), (1.234, "1.23"), (123.4, "123"), (12345, "12,345")]
)
def test_a_number_has_the_digits_that_count(value: float, text: str) -> None:
    assert tables.number(value) == text


def test_names_are_unique_and_every_subject_takes_part_in_something() -> None:
    assert len({subject.name for subject in subjects.ALL}) == len(subjects.ALL)
    for subject in subjects.ALL:
        assert any(case.name.startswith(tuple(subject.cases)) for case in scenarios.ALL)


def test_the_mail_is_of_2_7_kilobytes_and_no_two_are_the_same() -> None:
    one, other = mails(2, first=500)
    assert 2600 <= len(one.email().message().as_bytes()) <= 2800
    assert {one.recipient, one.text, one.html}.isdisjoint({other.recipient, other.text, other.html})


def test_a_module_of_a_subject_loads_no_package_that_it_measures() -> None:
    code = "import sys, benchmarks.subjects; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )
    names = {"django", "celery", "django_q", "pillarbox", "post_office", "mailer"}
    assert names.isdisjoint(loaded.stdout.split())


class TestWire:
    def test_it_notes_who_got_a_mail_and_when(self) -> None:
        with sinks.wire() as sink:
            before = time.monotonic()
            with smtplib.SMTP("127.0.0.1", sink.port, timeout=10) as client:
                client.sendmail("a@example.org", ["b@example.org"], b"Subject: x\r\n\r\nHi\r\n")
            after = time.monotonic()
            wait_for(lambda: sink.count == 1)
        assert before <= sink.arrived["b@example.org"] <= after

    def test_with_a_certificate_it_wants_starttls_and_auth(self, tmp_path: Any) -> None:
        import ssl

        certificate = sinks.make_certificate(tmp_path)
        with (
            sinks.wire(certificate) as sink,
            smtplib.SMTP("127.0.0.1", sink.port, timeout=10) as client,
        ):
            with pytest.raises(smtplib.SMTPSenderRefused):
                client.sendmail("a@example.org", ["b@example.org"], b"Hi")
            client.starttls(context=ssl.create_default_context(cafile=certificate))
            client.login("shop", "of no worth")
            client.sendmail("a@example.org", ["b@example.org"], b"Subject: x\r\n\r\nHi\r\n")
            wait_for(lambda: sink.count == 1)


@contextmanager
def echo() -> Iterator[int]:
    """Run a server that says everything again."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                while data := connection.recv(65536):
                    connection.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join(10)


def test_the_proxy_holds_everything_for_10_ms_each_way_and_keeps_the_order() -> None:
    sent = b"".join(b"%06d " % number for number in range(20_000))
    with (
        echo() as port,
        sinks.delayed(port) as proxy,
        socket.create_connection(("127.0.0.1", proxy), timeout=10) as client,
    ):
        started = time.monotonic()
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        assert time.monotonic() - started >= 0.020
        got = bytearray()
        threading.Thread(target=client.sendall, args=(sent,)).start()
        while len(got) < len(sent):
            got += client.recv(65536)
    assert bytes(got) == sent


def test_the_meter_counts_children_that_have_ended() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    code = f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {burn!r}]); "
    code += "print('done', flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        meter = Meter([process.pid])
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"done\n"
            assert meter.cpu_s() >= 0.25  # /proc counts whole ticks of 10 ms
            assert meter.peak_mb > 1
            assert os.getsid(process.pid) == process.pid
        finally:
            process.kill()
            process.wait(10)
            used = meter.cpu_s()
            meter.stop()
    assert used >= 0.25


def test_every_subject_says_how_it_is_set_up() -> None:
    assert all(isinstance(subject, Subject) and subject.setup for subject in subjects.ALL)
