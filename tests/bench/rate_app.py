"""The noop application whose student runs are paid calls of the teacher instead.

Rule: gate, ledger, adapter and HTTP are the real ones, and so is the way back into `due` for a call
that must wait; only what is asked is of no use.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.bench.noop import Noop
from tests.bench.noop_app import MARKS, app, done, mark, with_perform
from worker import app as process
from worker.core.teaching import TeacherRequest

if TYPE_CHECKING:
    from worker.core.commands import RunStudent
    from worker.core.events import Event
    from worker.steps.context import Step

__all__ = ["app"]

_REQUEST = TeacherRequest(
    model="claude-opus-4-6",
    max_tokens=4_096,
    system=[],
    messages=[{"role": "user", "content": [{"type": "text", "text": "What is 2 + 2?"}]}],
)


class PaidRuns(Noop):
    """A run is a call of the teacher."""

    def run(self, command: RunStudent, step: Step) -> Event:
        """Pay for one call."""
        account = f"session:{step.session_id}"
        step.ports.ledger.open_account(account, 10**12)
        step.ports.teachers["default"].call(
            _REQUEST,
            reservation_id=f"{step.session_id}/{step.step_id}/{step.attempt}.1",
            scopes=("fleet", account),
            kind="self_run",
            step_id=step.step_id,
            prompt_bound_tokens=2_000,
            stopped=step.stopped,
        )
        return super().run(command, step)


if MARKS in os.environ:
    process._system = with_perform(PaidRuns(mark, done))
