"""What each kind of step does: one module a kind.

Rule: a step reads the session and the outside, and returns one event. It never touches the journal,
never retries by itself, and raises what it cannot handle: the runner decides what follows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from worker.core.commands import (
    AwaitResume,
    CallTool,
    Command,
    Conclude,
    JudgeRun,
    Prepare,
    RunStudent,
    TakeTurn,
)
from worker.steps.call import call_tool
from worker.steps.conclude import conclude
from worker.steps.judge import judge_run
from worker.steps.prepare import prepare
from worker.steps.resume import await_resume
from worker.steps.run import run_student
from worker.steps.turn import take_turn

if TYPE_CHECKING:
    from worker.core.events import Event
    from worker.steps.context import Step

__all__ = ["perform"]


def perform(command: Command, step: Step) -> Event:  # noqa: PLR0911 - one `return` a command
    """Carry `command` out and return what happened.

    Raises:
        BudgetDenied, TeacherFault, StudentFault, Unavailable, BadInput: As the step met them.
        Cancelled: The step was told to stop.
        StillWaiting: A session at rest has not got what it waits for.
    """
    match command:
        case Prepare():
            return prepare(step)
        case TakeTurn():
            return take_turn(step, command)
        case CallTool():
            return call_tool(step, command)
        case RunStudent():
            return run_student(step, command)
        case JudgeRun():
            return judge_run(step, command)
        case AwaitResume():
            return await_resume(step)
        case Conclude():
            return conclude(step)
    assert_never(command)
