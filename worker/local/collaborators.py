"""The reference's student runner and judge as our `Student` and judge.

Rule: whatever the objects return is read with care: a missing field is its default, an exception is
a fault and never an answer.
"""

from __future__ import annotations

import inspect
import math
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from worker.core.judging import PASS_SCORE, Comparison, mask_reference
from worker.core.teaching import JudgeRequest, TeacherReply, TeacherRequest, Verdict
from worker.core.values import RunOutcome
from worker.errors import DiagnosisError, StudentFault
from worker.ports import StudentAnswer

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CallableStudent", "TraceJudge"]


class CallableStudent:
    """`student_runner(query, session_id=...)` as a `Student`."""

    def __init__(self, runner: Callable[..., Any], session_id: str) -> None:
        self._runner = runner
        self._session_id = session_id

    def answer(self, query: str, *, seed: int, run_id: str) -> StudentAnswer:
        """Return what the runner's object says.

        Raises:
            StudentFault: The runner raised.
        """
        del seed, run_id
        began_s = time.monotonic()
        try:
            result = self._call(query)
        except Exception as exc:
            raise StudentFault(
                f"the student runner raised {type(exc).__name__}: {exc}",
                reason="raised",
                retryable=False,
            ) from exc
        content = getattr(result, "content", result)
        text = None if content is None else str(content)
        return StudentAnswer(
            outcome=RunOutcome.ANSWERED if text and text.strip() else RunOutcome.EMPTY,
            content=text or None,
            completion_tokens=_whole(getattr(result, "tokens_used", 0)),
            latency_ms=_latency_ms(result, began_s),
            response_id=str(getattr(result, "trace_id", "")),
        )

    def _call(self, query: str) -> Any:  # noqa: ANN401 - any object
        """Call the runner; one that takes no session id is called without."""
        try:
            inspect.signature(self._runner).bind(query, session_id=self._session_id)
        except (TypeError, ValueError):
            return self._runner(query)
        return self._runner(query, session_id=self._session_id)


class TraceJudge:
    """`judge.score_trace(trace) -> (score, reasoning)` as our judge; None scores nothing."""

    def __init__(self, judge: Any) -> None:  # noqa: ANN401 - any object with the method
        self._judge = judge

    def score(
        self, request: JudgeRequest, *, model: str, call: Callable[[TeacherRequest], TeacherReply]
    ) -> Verdict:
        """Return the judge's verdict on an output.

        Raises:
            DiagnosisError: There is no judge, it raised, or its score is no number in 0..1.
        """
        del model, call
        if self._judge is None:
            raise DiagnosisError("there is no judge, and the task has no scorer of its own")
        try:
            score, reasoning = self._judge.score_trace(_trace(request))
        except Exception as exc:
            raise DiagnosisError(f"the judge raised {type(exc).__name__}: {exc}") from exc
        return _verdict(score, reasoning, request.reference)

    def compare(
        self,
        *,
        task: str,
        student_output: str,
        teacher_output: str,
        reference: str,
        model: str,
        call: Callable[[TeacherRequest], TeacherReply],
    ) -> Comparison:
        """Return the scores of two outputs of one task; raises as `score` does."""
        student, teacher = (
            self.score(
                JudgeRequest(task=task, output=output, reference=reference), model=model, call=call
            )
            for output in (student_output, teacher_output)
        )
        return Comparison(
            student_score=student.score,
            teacher_score=teacher.score,
            reasoning=student.reasoning,
        )


def _verdict(score: object, reasoning: object, reference: str) -> Verdict:
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= 1:
        raise DiagnosisError(f"the judge's score {score!r} is no number from 0 to 1")
    return Verdict(
        score=float(score),
        passed=score >= PASS_SCORE,
        reasoning=mask_reference(str(reasoning), reference),
    )


def _trace(request: JudgeRequest) -> SimpleNamespace:
    """Return an output in the form that the reference hands to its judge."""
    return SimpleNamespace(
        query=request.task,
        result=request.output,
        steps=[],
        messages=[],
        agent="student",
        model="local",
        total_tokens=0,
        total_latency_seconds=0,
        metadata={"reference_answer": request.reference} if request.reference else {},
    )


def _latency_ms(result: object, began_s: float) -> int:
    said = getattr(result, "latency_seconds", None)
    if isinstance(said, (int, float)) and math.isfinite(said) and said > 0:
        return round(said * 1000)
    return round((time.monotonic() - began_s) * 1000)


def _whole(value: object) -> int:
    return value if isinstance(value, int) and value >= 0 else 0
