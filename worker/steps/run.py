"""The step that has the student answer one benchmark task, and scores it.

Rule: what the student said and what its server did are kept apart: a fault is never an answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.core.events import RunRecorded
from worker.core.values import Runner
from worker.steps.scored import score_output

if TYPE_CHECKING:
    from worker.core.commands import RunStudent
    from worker.steps.context import Step

__all__ = ["run_student"]


def run_student(step: Step, command: RunStudent) -> RunRecorded:
    """Run the student once and return the record.

    Raises:
        StudentFault: Its server failed; the runner tries again or records the fault.
    """
    sample = step.sample(command.spec.task_id)
    answer = step.student().answer(
        sample.query,
        seed=command.spec.attempt,
        run_id=f"{step.session_id}/{step.step_id}/{step.attempt}",
    )
    scored = score_output(sample, answer.outcome, answer.content)
    return RunRecorded(
        turn=command.turn,
        index=command.index,
        ordinal=command.ordinal,
        runner=Runner.STUDENT,
        spec=command.spec,
        outcome=answer.outcome,
        output=None if answer.content is None else step.store(answer.content),
        score=scored.score,
        passed=scored.passed,
        scorer=scored.scorer,
        why=scored.why,
        needs_judge=scored.needs_judge,
        latency_ms=answer.latency_ms,
        tokens=answer.prompt_tokens + answer.completion_tokens,
    )
