"""The benchmark's own parts are right: what it counts, what it compares, what its page says."""

from __future__ import annotations

import os
import smtplib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from benchmarks import report, scenarios, sinks, subjects, tables
from benchmarks.mail import mails
from benchmarks.meter import Meter
from benchmarks.scenarios import drain, latency
from benchmarks.subjects.base import Subject
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
