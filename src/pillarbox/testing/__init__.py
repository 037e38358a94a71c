"""For the tests of projects that use Pillarbox, with unittest as well as with pytest.

A test queues mail as the project does, calls `deliver()`, and looks at what became of it::

    from pillarbox import testing

    class SignUpTest(TestCase):
        def test_it_sends_a_confirmation(self):
            self.client.post("/sign-up/", {"email": "ada@example.org"})
            testing.deliver()
            testing.assert_sent(to="ada@example.org", subject="Please confirm", count=1)

What holds in a test:

* **No real mail.** While Django's test runner or pytest-django has ``mail.outbox`` in place, every
  mailer is locmem, on every Django version, and what is delivered is in ``mail.outbox`` too. Only a
  test that gives real mailers to ``override_settings(MAILERS=…)`` itself (Django 6.1) gets them.
  `ScriptedMailer` takes the place of every mailer instead, and can refuse, defer or go silent.
  A worker that a test starts as a process of its own is outside of this: give it settings whose
  mailers reach nobody.
* **The test runner's swap.** It replaces the project's mail backend by locmem, a queueing one too.
  So in a test ``send_mail()`` fills ``mail.outbox`` at once, as it does in any Django project, and
  ``send_email()`` queues. To have ``send_mail()`` queue as well, give the queueing backend back
  with ``override_settings(MAILERS=…)``, beside a locmem mailer (``EMAIL_BACKEND=…`` without
  MAILERS).
* **TestCase transactions.** `deliver()` works in them, on the test's own connection. ``on_commit``
  hooks do not run there, so nothing wakes an engine, the engine ``immediate`` delivers nothing by
  itself and ``message_queued`` is not sent, unless the test captures the hooks:
  ``with self.captureOnCommitCallbacks(execute=True)``. Only a block of the test's own around
  `deliver()` is refused, since the worker's transactions are durable.
* **Time.** `freeze` stops the clock that decides what is due, so that a retry can be tested without
  sleeping. `deliver()` sends what is due now and leaves the rest.
"""

from pillarbox.testing.assertions import (
    assert_failed,
    assert_in_doubt,
    assert_not_queued,
    assert_not_sent,
    assert_queued,
    assert_sent,
)
from pillarbox.testing.delivering import Tally, deliver
from pillarbox.testing.freezing import FrozenClock, freeze
from pillarbox.testing.mailer import Conversation, ScriptedMailer

__all__ = [
    "Conversation",
    "FrozenClock",
    "ScriptedMailer",
    "Tally",
    "assert_failed",
    "assert_in_doubt",
    "assert_not_queued",
    "assert_not_sent",
    "assert_queued",
    "assert_sent",
    "deliver",
    "freeze",
]
