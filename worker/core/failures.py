"""What a step that failed for good leaves in the journal.

Rule: every command has an event for its failure, so a session always goes on to its end. A fault of
the infrastructure is never an answer of the student.
"""

from __future__ import annotations

from typing import assert_never

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
from worker.core.events import (
    CallAnswered,
    Event,
    PauseExpired,
    PreparationFailed,
    RunJudged,
    RunRecorded,
    TeacherStopped,
)
from worker.core.values import Runner, RunOutcome, Stop, Text

__all__ = ["failure_of"]


def failure_of(command: Command, reason: str, *, stop: Stop = Stop.FAULT) -> Event | None:
    """Return the event that records `command` as failed; None for `Conclude`, which never gives up.

    Args:
        command: What failed.
        reason: One sentence for the reader of the report; holds no secret.
        stop: For a teacher's turn: what ends the exploration.
    """
    match command:
        case Prepare():
            return PreparationFailed(reason=reason)
        case TakeTurn():
            return TeacherStopped(
                turn=command.turn, purpose=command.purpose, stop=stop, detail=reason
            )
        case CallTool():
            return CallAnswered(
                turn=command.turn,
                index=command.index,
                result=Text(text=f"This call failed and was given up: {reason}"),
                is_error=True,
            )
        case RunStudent():
            return RunRecorded(
                turn=command.turn,
                index=command.index,
                ordinal=command.ordinal,
                runner=Runner.STUDENT,
                spec=command.spec,
                outcome=RunOutcome.FAULT,
                why=reason,
            )
        case JudgeRun():
            return RunJudged(
                turn=command.turn,
                index=command.index,
                ordinal=command.ordinal,
                score=None,
                passed=None,
                why=reason,
            )
        case AwaitResume():
            return PauseExpired(number=command.number, detail=reason)
        case Conclude():
            return None
    assert_never(command)
