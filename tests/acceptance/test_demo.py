"""The demo, in its short form: it plays, it judges, and it ends what it has started."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

EXAMPLE = Path(__file__).parents[2] / "example"
COMMAND = [sys.executable, str(EXAMPLE / "demo.py"), "--fast"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# Settings and mailer for the shop, which does wrong by one mail among all.
SABOTAGE = """
from stage.settings import *
import pillarbox.backends.smtp

class EmailBackend(pillarbox.backends.smtp.EmailBackend):
    def deliver(self, message, recipients=None):
        if message.to != ["reader-0007@example.org"]:
            return super().deliver(message, recipients)
        {deed}
"""
DEEDS = {
    "missing": """
        from pillarbox.delivery.outcomes import Sent
        return Sent()
    """,
    "doubled": """
        super().deliver(message, recipients)
        return super().deliver(message, recipients)
    """,
    "altered": """
        message.body = message.body.replace("iron-gall", "iron gall")
        return super().deliver(message, recipients)
    """,
}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a demo whose temporary files are the test's."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    return {**os.environ, "TMPDIR": str(temporary), "PYTHONIOENCODING": "utf-8"}


def play(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        COMMAND, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def test_the_demo_delivers_everything_and_leaves_nothing_behind(
    environment: dict[str, str],
) -> None:
    played = play(environment)
    assert played.returncode == 0, played.stdout + played.stderr
    assert "43 mails were meant, and each arrived once, unaltered" in played.stdout
    assert re.search(r"Notice to 40 +\| +40 +\| +40 ", played.stdout)
    assert re.search(r"Declined order .* 1 \|", played.stdout)
    assert "\x1b" not in played.stdout, "plain lines where there is no terminal"
    assert not list(Path(environment["TMPDIR"]).glob("pillarbox-demo-*"))
    assert not still_running(pids_in(played.stdout))


@pytest.mark.parametrize("fault", DEEDS)
def test_the_demo_fails_if_a_single_mail_is(
    fault: str, environment: dict[str, str], tmp_path: Path
) -> None:
    mailer = "\nMAIL['smtp']['BACKEND'] = 'sabotage.EmailBackend'\n"
    (tmp_path / "sabotage.py").write_text(SABOTAGE.format(deed=DEEDS[fault].strip()) + mailer)
    played = play(
        {
            **environment,
            "STAGE_SETTINGS": "sabotage",
            "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
        }
    )
    assert played.returncode == 1, played.stdout + played.stderr
    assert re.search(rf"  {fault}.* to reader-0007@example.org", played.stdout), played.stdout
    assert "the last lines of the worker" in played.stdout
    assert not still_running(pids_in(played.stdout))


@pytest.fixture
def kept(environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Start a demo that stays, and stop it whatever happens."""
    with subprocess.Popen(
        [*COMMAND, "--keep"], env=environment, stdout=subprocess.PIPE, text=True
    ) as demo:
        yield demo
        if demo.poll() is None:
            demo.terminate()


def test_a_kept_demo_can_be_clicked_through_and_ends_with_ctrl_c(
    kept: subprocess.Popen[str], environment: dict[str, str]
) -> None:
    assert kept.stdout is not None
    shown = ""
    for line in kept.stdout:
        shown += line
        if line.startswith("  the files"):
            break
    shop, admin, inbox = re.findall(r"  the (?:shop|admin|mail) +(http\S+)", shown)
    assert re.search(r"  password +\S{12}\n", shown)
    assert "For people who write letters" in page(shop)
    assert "Log in" in page(admin)
    assert "43 mails at the mail server" in page(inbox)

    kept.send_signal(signal.SIGINT)
    assert kept.wait(40) == 0
    for address in (shop, inbox):
        with pytest.raises(URLError, match="refused"):
            page(address)
    assert not still_running(pids_in(shown))
    assert not list(Path(environment["TMPDIR"]).glob("pillarbox-demo-*"))


def page(address: str) -> str:
    with urlopen(address, timeout=10) as answer:
        return str(answer.read().decode())


def pids_in(shown: str) -> set[int]:
    """Return the processes that the demo says it has started."""
    pids = {int(pid) for pid in re.findall(r"\(process (\d+)\)", shown)}
    assert len(pids) == 3
    return pids


def still_running(groups: set[int]) -> set[int]:
    """Return which of the processes, or of those that they started, are there after 5 s."""
    until = time.monotonic() + 5
    while alive := {group for group in groups if is_alive(group)}:
        if time.monotonic() > until:
            break
        time.sleep(0.1)
    return alive


def is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
