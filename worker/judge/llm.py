"""A model as the judge.

Rule: it asks, reads and asks once more; how a call is paid is its caller's, and what is asked and
understood is `worker.core.judging`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from worker.core.judging import (
    Comparison,
    VerdictUnreadable,
    compare_request,
    judge_request,
    mask_reference,
    read_comparison,
    read_verdict,
    repair_request,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.core.teaching import JudgeRequest, TeacherReply, TeacherRequest, Verdict

__all__ = ["LlmJudge"]

_T = TypeVar("_T")


class LlmJudge:
    """Scores outputs by asking a model. Holds nothing; safe to share."""

    def score(
        self, request: JudgeRequest, *, model: str, call: Callable[[TeacherRequest], TeacherReply]
    ) -> Verdict:
        """Return the verdict on one output; its reasoning does not hold the reference.

        Args:
            request: What to score.
            model: Who scores.
            call: Makes one paid call; made once, and once more where the reply cannot be read.

        Raises:
            VerdictUnreadable: The judge gave no score that can be read, or refused.
            DiagnosisError: What `call` raises.
        """
        verdict = _asked(judge_request(model, request), read_verdict, call)
        return replace(verdict, reasoning=mask_reference(verdict.reasoning, request.reference))

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
        """Return the scores of two outputs of one task, in one call.

        Args:
            task: What both were asked.
            student_output: What the student said.
            teacher_output: What the teacher said.
            reference: Empty where there is none.
            model: Who scores.
            call: Makes one paid call; made once, and once more where the reply cannot be read.

        Raises:
            VerdictUnreadable: The judge gave no scores that can be read, or refused.
            DiagnosisError: What `call` raises.
        """
        request = compare_request(
            model,
            task=task,
            student_output=student_output,
            teacher_output=teacher_output,
            reference=reference,
        )
        compared = _asked(request, read_comparison, call)
        return replace(compared, reasoning=mask_reference(compared.reasoning, reference))


def _asked(
    request: TeacherRequest,
    read: Callable[[TeacherReply], _T | None],
    call: Callable[[TeacherRequest], TeacherReply],
) -> _T:
    """Return what the judge says, asked at most twice; a refusal would only be repeated."""
    reply = call(request)
    found = read(reply)
    if found is None and reply.stop_reason != "refusal":
        reply = call(repair_request(request, reply))
        found = read(reply)
    if found is None:
        # Its words are not quoted: they may hold the reference answer.
        raise VerdictUnreadable(
            f"The judge {request.model!r} gave no score between 0 and 1 that can be read "
            f"(stop_reason {reply.stop_reason!r}, message {reply.message_id!r}). "
            "The run counts neither way; name another judge model if this repeats.",
            model=request.model,
            stop_reason=reply.stop_reason,
            message_id=reply.message_id,
        )
    return found
