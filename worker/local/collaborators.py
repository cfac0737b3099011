"""The reference's student runner and judge as a student and a judge of ours.

Rule: whatever the objects return is read with care: a missing field is its default, an exception is
a fault and never an answer, and a score that is none counts neither way.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from worker.core.judging import PASS_SCORE, Comparison, mask_reference
from worker.core.teaching import JudgeRequest, TeacherReply, TeacherRequest, Verdict
from worker.core.values import RunOutcome
from worker.errors import DiagnosisError, StudentFault
from worker.local.objects import attribute, number, text, whole
from worker.ports import StudentAnswer

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CallableStudent", "TraceJudge"]

#: How OpenJarvis's own student runner begins what it returns where its server failed.
_ERROR = "Error: "


class CallableStudent:
    """`student_runner(query, session_id=...)` as a `Student`."""

    def __init__(
        self, runner: Callable[..., Any], session_id: str, redact: Callable[[str], str]
    ) -> None:
        self._runner = runner
        self._session_id = session_id
        self._redact = redact

    def answer(self, query: str, *, seed: int, run_id: str) -> StudentAnswer:
        """Return what the runner's object says.

        Raises:
            StudentFault: The runner raised, or returned what is no answer.
        """
        del seed, run_id
        began_s = time.monotonic()
        try:
            result = self._call(query)
            said = self._said(result)
        except StudentFault:
            raise
        except Exception as exc:
            raise self._fault(f"raised {type(exc).__name__}: {exc}", "raised") from exc
        return StudentAnswer(
            outcome=RunOutcome.ANSWERED if said and said.strip() else RunOutcome.EMPTY,
            content=said or None,
            completion_tokens=whole(attribute(result, "tokens_used")),
            latency_ms=_latency_ms(result, began_s),
            response_id=text(attribute(result, "trace_id")) or "",
        )

    def _call(self, query: str) -> object:
        """Call the runner; one that takes no session id is called without."""
        try:
            inspect.signature(self._runner).bind(query, session_id=self._session_id)
        except (TypeError, ValueError):
            return self._runner(query)
        return self._runner(query, session_id=self._session_id)

    def _said(self, result: object) -> str | None:
        """Return the text of a result, None for an empty one."""
        if inspect.iscoroutine(result):
            result.close()
            raise self._fault("is async: wrap it in a function that calls asyncio.run", "bad_body")
        content = _content(result)
        if callable(content):
            raise self._fault(f"returned {type(content).__name__!r}, not a text", "bad_body")
        said = text(content)
        if said is not None and _is_failure(said, result):
            raise self._fault(f"returned {said[:300]!r}", "server_error")
        return said

    def _fault(self, what: str, reason: str) -> StudentFault:
        """Return a fault. The runner's retries are its own: none is retryable."""
        words = self._redact(f"the student runner {text(what)}")
        return StudentFault(words, reason=reason, retryable=False)


def _content(result: object) -> object:
    """Return what a result has as its content; itself where it has none."""
    if isinstance(result, Mapping):
        return cast("Mapping[str, object]", result).get("content", cast("object", result))
    return getattr(result, "content", result)


def _is_failure(said: str, result: object) -> bool:
    """Whether this is what OpenJarvis's student runner returns where its server failed.

    It then has no trace and no tokens, which an answer of its model always has.
    """
    fields = ("trace_id", "tokens_used")
    empty = all(attribute(result, name, "missing") in ("", 0) for name in fields)
    return empty and said.startswith(_ERROR)


class TraceJudge:
    """`judge.score_trace(trace) -> (score, reasoning)` as our judge; None scores nothing."""

    def __init__(self, judge: Any, redact: Callable[[str], str]) -> None:  # noqa: ANN401 - theirs
        self._judge = judge
        self._redact = redact

    def score(
        self, request: JudgeRequest, *, model: str, call: Callable[[TeacherRequest], TeacherReply]
    ) -> Verdict:
        """Return the judge's verdict on an output.

        Raises:
            DiagnosisError: There is no judge, it raised, or its score is no number in 0..1.
        """
        del model, call
        return self._score(request, _trace(request, "student", "local"))

    def _score(self, request: JudgeRequest, trace: object) -> Verdict:
        if self._judge is None:
            raise DiagnosisError("there is no judge, and the task has no scorer of its own")
        try:
            said: Any = self._judge.score_trace(trace)
        except Exception as exc:
            raised = self._redact(f"the judge raised {type(exc).__name__}: {text(str(exc))}")
            raise DiagnosisError(raised) from exc
        parts = cast("list[object]", said) if isinstance(said, (tuple, list)) else [said]
        score, reasoning, *_ = (*parts, None, None)
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
        del model, call
        student, teacher = (
            self._score(request, _trace(request, agent, of))
            for agent, of, request in (
                ("student", "local", _request(task, student_output, reference)),
                ("teacher", "frontier", _request(task, teacher_output, reference)),
            )
        )
        return Comparison(
            student_score=student.score,
            teacher_score=teacher.score,
            reasoning=student.reasoning,
        )


def _verdict(score: object, reasoning: object, reference: str) -> Verdict:
    found = float(score) if isinstance(score, bool) else number(score)
    if found is None or not 0 <= found <= 1:
        raise DiagnosisError(f"the judge's score {text(score)!r} is no number from 0 to 1")
    return Verdict(
        score=float(found),
        passed=found >= PASS_SCORE,
        reasoning=mask_reference(text(reasoning) or "", reference),
    )


def _request(task: str, output: str, reference: str) -> JudgeRequest:
    return JudgeRequest(task=task, output=output, reference=reference)


def _trace(request: JudgeRequest, agent: str, model: str) -> SimpleNamespace:
    """Return an output in the form that the reference hands to its judge."""
    return SimpleNamespace(
        query=request.task,
        result=request.output,
        steps=[],
        messages=[],
        agent=agent,
        model=model,
        total_tokens=0,
        total_latency_seconds=0,
        metadata={"reference_answer": request.reference} if request.reference else {},
    )


def _latency_ms(result: object, began_s: float) -> int:
    said_s = number(attribute(result, "latency_seconds"))
    if said_s is not None and said_s > 0:
        return round(said_s * 1000)
    return round((time.monotonic() - began_s) * 1000)
