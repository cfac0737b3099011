"""Steps that do nothing, and the sessions that are made of them.

Rule: what a step returns is what a real one would, so that core, journal and hints have all their
work; only the work of the step itself is missing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from worker.core.commands import (
    AwaitResume,
    CallTool,
    Conclude,
    JudgeRun,
    Prepare,
    RunStudent,
    TakeTurn,
)
from worker.core.events import (
    BundlePrepared,
    CallExpanded,
    RunJudged,
    RunRecorded,
    SessionEnded,
    SessionResumed,
    TeacherReplied,
)
from worker.core.values import Limits, Purpose, RunOutcome, RunSpec, SessionSpec, Text, ToolCall
from worker.core.values import Runner as Who

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.core.commands import Command
    from worker.core.events import Event
    from worker.steps.context import Step

__all__ = ["Noop", "session_spec"]

#: Longer than any session here; each is ended by its turns.
_LONG_MS = 600_000


def session_spec(name: str, *, turns: int = 2, runs: int = 0, run_ms: int = 0) -> SessionSpec:
    """Return a session of `turns` turns; with `runs`, the first one has that many student runs."""
    return SessionSpec(
        session_id=name,
        bundle_uri="none",
        student="none",
        teacher="none",
        judge="none",
        teacher_model="none",
        judge_model="none",
        tenant="bench",
        campaign="bench",
        trigger=f"{runs} {run_ms}",
        limits=Limits(
            max_turns=turns,
            max_student_runs=runs,
            max_parallel_calls=16,
            max_parallel_runs=64,
            max_duration_ms=_LONG_MS,
        ),
    )


class Noop:
    """What `Runner` performs: nothing, or a sleep in place of a student."""

    def __init__(self, mark: Callable[[str], object], done: Callable[[str], object]) -> None:
        """Take what is told of each turn's begin and of each session's end, by session id."""
        self._mark = mark
        self._done = done

    def __call__(self, command: Command, step: Step) -> Event:  # noqa: PLR0911 - one `return` a command
        """Return what a real step would have returned."""
        match command:
            case Prepare():
                return BundlePrepared(brief=Text(text=""), traces=0, tasks=0)
            case TakeTurn():
                return self._turn(command, step)
            case CallTool():
                runs, _ = _wanted(step)
                specs = tuple(RunSpec(task_id="t", attempt=number) for number in range(runs))
                return CallExpanded(turn=command.turn, index=command.index, runs=specs)
            case RunStudent():
                return self.run(command, step)
            case JudgeRun():
                return _judged(command)
            case AwaitResume():
                return SessionResumed(number=command.number, detail="")
            case Conclude():
                self._done(step.session_id)
                return SessionEnded(
                    outcome="concluded",
                    reason="",
                    cost_nusd=0,
                    manifest_sha256="",
                    artifacts_uri="",
                )

    def run(self, command: RunStudent, step: Step) -> Event:
        """Return a run's record, after as long as a student takes."""
        return _run(command, step)

    def _turn(self, command: TakeTurn, step: Step) -> Event:
        if command.purpose is Purpose.EXPLORE:
            self._mark(step.session_id)
        asks = command.turn == 1 and _wanted(step)[0] > 0
        call = ToolCall(call_id="c", tool="run_student_on_tasks", arguments_json="{}")
        return TeacherReplied(
            turn=command.turn,
            purpose=command.purpose,
            content=Text(text="[]"),
            stop_reason="tool_use" if asks else "pause_turn",
            calls=(call,) if asks else (),
        )


def _run(command: RunStudent, step: Step) -> Event:
    time.sleep(_wanted(step)[1] / 1000)
    return RunRecorded(
        turn=command.turn,
        index=command.index,
        ordinal=command.ordinal,
        runner=Who.STUDENT,
        spec=command.spec,
        outcome=RunOutcome.ANSWERED,
        score=1.0,
        passed=True,
    )


def _judged(command: JudgeRun) -> Event:
    return RunJudged(
        turn=command.turn,
        index=command.index,
        ordinal=command.ordinal,
        score=None,
        passed=None,
        why="nothing is judged here",
    )


def _wanted(step: Step) -> tuple[int, int]:
    """Return how many student runs the session wants, and how long each takes in ms."""
    runs, run_ms = step.session.spec.trigger.split()
    return int(runs), int(run_ms)
