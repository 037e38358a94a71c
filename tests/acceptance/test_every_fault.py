"""Every fault at every step of a session, through the real drain: the audit holds in each cell."""

from __future__ import annotations

import inspect
import ssl
from pathlib import Path
from typing import Any, Literal

import pytest
import trustme
from django.test import override_settings

from pillarbox import send_email
from pillarbox.delivery import conversation
from pillarbox.delivery import drain as drains
from pillarbox.delivery.drain import drain
from pillarbox.delivery.outcomes import Stage, replies
from pillarbox.engines.worker import Engine as Worker
from pillarbox.models import Attempt, Circuit, DatabaseNow, Message, State
from tests.support.audit import audit
from tests.support.ledger_sink import ledger_sink
from tests.support.ledger_sink.faults import FAULTS, SILENT, STEPS, always
from tests.support.mailers import delivering_to
from tests.support.smtp_steps import Step

pytestmark = pytest.mark.django_db(transaction=True)

TABLE = """
stage           4xx        5xx         421       530 …   no reply, or none that is SMTP
==============  =========  ==========  ========  ======  ==================================
open            mailer     mailer      mailer    mailer  mailer
mail            retry      fail        mailer    mailer  mailer
rcpt (each)     retry      fail        mailer    fail    retry
data            retry      fail        mailer    fail    retry
body            retry      fail        retry     fail    retry
dot             retry      fail        retry     fail    in doubt
"""
"""What `pillarbox.delivery.outcomes.replies` promises; its other rows have no server of ours."""
COLUMNS = {"4xx": 1, "5xx": 2, "421": 3, "530": 4, "disconnect": 5, "hang": 5, "garbage": 5}
RESULTS = {"mailer": "mailer_down", "retry": "retry", "fail": "failed", "in doubt": "in_doubt"}
STAGES = {Step.ACCEPTED: Stage.DOT, Step.QUIT: Stage.DOT} | dict.fromkeys(
    (Step.BANNER, Step.EHLO, Step.STARTTLS, Step.AUTH), Stage.OPEN
)
HARMLESS = {
    *((Step.QUIT, fault) for fault in FAULTS),
    # HELO is said instead (RFC 5321 4.1.1.1), even to one whose EHLO brings no SMTP reply.
    *((Step.EHLO, fault) for fault in ("4xx", "5xx", "530", "garbage")),
}
"""Where the mail goes all the same."""

CELLS = [
    pytest.param(step, fault, id=f"{step}-{fault}")
    for step in STEPS
    for fault in FAULTS
    if step is not Step.ACCEPTED or fault in SILENT
]
POLICIES: tuple[Literal["resend", "hold"] | None, ...] = ("resend", "hold", None)
AUTHORITY = trustme.CA()
PATIENCE_S = {"hang": 0.5}
BIG = "A line of a body that is too big for the buffers between the two sockets.\n" * 70_000


def promised(step: Step, fault: str) -> tuple[str, str]:
    """Return the result and the stage that the table has for a cell."""
    stage = STAGES.get(step) or Stage(step.value)
    if fault == "slow" or (step, fault) in HARMLESS:
        return "sent", Stage.DOT
    rows = [line.replace("in doubt", "in_doubt").split() for line in TABLE.splitlines()]
    (row,) = (row for row in rows if row and row[0] == stage)
    kind = [word for word in row if word != "(each)"][COLUMNS[fault]]
    return RESULTS[kind.replace("_", " ")], stage


@pytest.fixture
def mailer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the options of a mailer with TLS and a password, and have its server trusted."""
    bundle = tmp_path / "authority.pem"
    AUTHORITY.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    return {"use_tls": True, "username": "shop", "password": "secret"}


def server_options(step: Step) -> dict[str, Any]:
    if step not in {Step.STARTTLS, Step.AUTH}:
        return {}
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("127.0.0.1").configure_cert(tls)
    return {"tls": tls, "auth": True}


def test_the_table_is_the_one_that_the_code_documents() -> None:
    documented = inspect.getdoc(replies) or ""
    for line in TABLE.strip().splitlines():
        assert line in documented.splitlines()


@override_settings(PILLARBOX={"CONNECTIONS": 3, "ENGINE": "worker"})
@pytest.mark.parametrize(("step", "fault"), CELLS)
@pytest.mark.parametrize("pipelining", [False, True], ids=["one by one", "pipelined"])
def test_a_fault_has_its_outcome_and_nothing_is_lost(
    step: Step,
    fault: str,
    mailer: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    *,
    pipelining: bool,
) -> None:
    patience_s = PATIENCE_S.get(fault, 10.0)
    monkeypatch.setattr(drains, "LINGER_S", 0.0)  # nobody queues any more
    monkeypatch.setitem(conversation.RFC_TIMEOUTS_S, Stage.DOT, patience_s)
    body = BIG if step is Step.BODY else "It gets there."
    for policy in POLICIES:
        send_email("A fault", body, ["ada@example.org"], in_doubt=policy)
    options = server_options(step)
    secured = mailer if options else {}
    options["pipelining"] = pipelining

    with ledger_sink(always(step, fault), **options) as bad:
        with delivering_to(bad, timeout=patience_s, **secured):
            drain(engine=Worker({}))
        assert bad.faults(step)[fault] >= 1
    result, stage = promised(step, fault)
    assert set(Attempt.objects.values_list("result", "stage")) == {(result, stage)}
    charged = 0 if result == "mailer_down" else 1
    assert set(Message.objects.values_list("attempts", flat=True)) == {charged}

    # A 421 beside working connections only halves them.
    if fault != "421" or result != "mailer_down":
        assert Circuit.objects.filter(state="open").exists() == (result == "mailer_down")
    # What waits for a time goes at once.
    Circuit.objects.all().delete()
    Message.objects.filter(state=State.QUEUED).update(due_at=DatabaseNow())
    with ledger_sink(**options) as good, delivering_to(good, timeout=10, **secured):
        drain(engine=Worker({}))
    found = audit(bad.accepted() + good.accepted(), enqueued=len(POLICIES))
    assert found.breaches == {}
    # The stream's policy is resend. What was taken before the doubt arose comes twice then.
    taken_unheard = step is Step.ACCEPTED and result == "in_doubt"
    assert len(found.twice_under_resend) == (2 if taken_unheard else 0)
    final = {"failed": {"failed": 3}, "in_doubt": {"sent": 2, "in_doubt": 1}}
    assert found.states == final.get(result, {"sent": 3})
