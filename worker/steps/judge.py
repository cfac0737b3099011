"""The step that has the judge score a run, and the one place where a judge is asked.

Rule: the judge sees the reference answer; nobody who reads its reasons does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.core.bounds import json_bytes, prompt_bound_tokens
from worker.core.events import RunJudged
from worker.core.teaching import JudgeRequest

if TYPE_CHECKING:
    from worker.core.commands import JudgeRun
    from worker.core.judging import Comparison
    from worker.core.machine import Run
    from worker.core.teaching import TeacherReply, TeacherRequest, Verdict
    from worker.steps.context import Step

__all__ = ["PaidJudge", "judge_run"]


class PaidJudge:
    """Asks the session's judge, and adds up what it cost within one step."""

    def __init__(self, step: Step, *, can_wait: bool = False) -> None:
        """Take a step; one that can wait has its first call made in a batch, if its session can."""
        self._step = step
        self._can_wait = can_wait
        self._calls = 0
        #: What the calls of this step have cost so far.
        self.cost_nusd = 0

    def score(self, task: str, output: str, reference: str) -> Verdict:
        """Return the verdict; the reference does not stand in its reasoning.

        Raises:
            TeacherFault, BudgetDenied: As the paid call met them.
        """
        return self._step.ports.judge.score(
            JudgeRequest(task=task, output=output, reference=reference),
            model=self._step.session.spec.judge_model,
            call=self._pay,
        )

    def compare(
        self, *, task: str, student_output: str, teacher_output: str, reference: str
    ) -> Comparison:
        """Return the scores of two outputs; the reference does not stand in the reasoning.

        Raises:
            TeacherFault, BudgetDenied: As the paid call met them.
        """
        return self._step.ports.judge.compare(
            task=task,
            student_output=student_output,
            teacher_output=teacher_output,
            reference=reference,
            model=self._step.session.spec.judge_model,
            call=self._pay,
        )

    def _pay(self, request: TeacherRequest) -> TeacherReply:
        self._calls += 1
        parts = (request.system, request.messages, request.tools)
        paid = self._step.pay(
            request,
            kind="judge",
            account=self._step.session.spec.judge,
            prompt_bound_tokens=prompt_bound_tokens(sum(json_bytes(part) for part in parts)),
            number=self._calls,
            batch_kind="judge_batch" if self._can_wait and self._calls == 1 else None,
        )
        self.cost_nusd += paid.cost_nusd
        return paid.reply


def judge_run(step: Step, command: JudgeRun) -> RunJudged:
    """Have the judge score a run that no scorer could.

    Raises:
        InBatch: The judge is asked in a batch that has not ended.
        TeacherFault, BudgetDenied: As the paid call met them; the run then counts neither way.
    """
    run = _run(step, command)
    assert run.record is not None, "a run is judged after it was recorded"
    assert run.record.output is not None, "an empty run needs no judge"
    sample = step.sample(run.spec.task_id)
    judge = PaidJudge(step, can_wait=True)
    verdict = judge.score(sample.query, step.text_of(run.record.output), sample.reference_answer)
    return RunJudged(
        turn=command.turn,
        index=command.index,
        ordinal=command.ordinal,
        score=verdict.score,
        passed=verdict.passed,
        why=verdict.reasoning[:2_000],
        cost_nusd=judge.cost_nusd,
    )


def _run(step: Step, command: JudgeRun) -> Run:
    call = step.session.turns[command.turn - 1].calls[command.index]
    if call.self_run is not None:
        return call.self_run
    assert call.runs is not None, "only a run is judged"
    return call.runs[command.ordinal]
