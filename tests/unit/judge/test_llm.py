from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from worker.core.judging import Comparison, VerdictUnreadable
from worker.core.teaching import JudgeRequest, TeacherReply, Verdict
from worker.core.values import Usage
from worker.errors import BudgetDenied
from worker.judge.llm import LlmJudge
from worker.testing import ScriptedTeacher, calls_tools, says

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.core.teaching import TeacherRequest

CASE = JudgeRequest(task="Capital of France?", output="Lyon", reference="Paris on the Seine")


def verdict(score: float, reasoning: str = "r") -> TeacherReply:
    arguments: dict[str, Any] = {"score": score, "passed": score >= 0.5, "reasoning": reasoning}
    return calls_tools(("submit_verdict", arguments))


def calling(teacher: ScriptedTeacher) -> Callable[[TeacherRequest], TeacherReply]:
    return lambda request: teacher.send(
        request, on_answer=lambda _: None, on_start=lambda _: None, stopped=lambda: False
    )


def test_a_verdict_costs_one_call() -> None:
    teacher = ScriptedTeacher([verdict(0.25, "Another city.")])

    found = LlmJudge().score(CASE, model="claude-x", call=calling(teacher))

    assert found == Verdict(score=0.25, passed=False, reasoning="Another city.")
    teacher.assert_finished()
    assert teacher.requests[0].model == "claude-x"


def test_the_reference_does_not_come_out_with_the_reasoning() -> None:
    teacher = ScriptedTeacher([verdict(0, "It should be Paris, on the Seine, says the key.")])

    found = LlmJudge().score(CASE, model="m", call=calling(teacher))

    assert found.reasoning == "It should be [***], says the key."


def test_a_judge_that_cannot_be_read_is_asked_once_more() -> None:
    teacher = ScriptedTeacher([says("Quite good, I think."), verdict(1)])

    found = LlmJudge().score(CASE, model="m", call=calling(teacher))

    assert found.score == 1
    first, second = teacher.requests
    assert second.messages == first.messages
    assert "could not be read" in second.system[-1]["text"]


def test_a_judge_that_cannot_be_read_twice_is_an_error_that_quotes_nothing() -> None:
    teacher = ScriptedTeacher([says("Paris on the Seine"), says("It is Paris on the Seine!")])

    with pytest.raises(VerdictUnreadable, match="no score between 0 and 1") as caught:
        LlmJudge().score(CASE, model="claude-x", call=calling(teacher))

    teacher.assert_finished()
    assert "claude-x" in str(caught.value)
    assert "Paris" not in str(caught.value)
    assert "Paris" not in repr(caught.value.facts)


def test_a_refusal_is_not_asked_again() -> None:
    teacher = ScriptedTeacher([says("", stop_reason="refusal", usage=Usage())])

    with pytest.raises(VerdictUnreadable, match="refusal"):
        LlmJudge().score(CASE, model="m", call=calling(teacher))

    teacher.assert_finished()


def test_what_the_call_raises_comes_out() -> None:
    def denied(_: TeacherRequest) -> TeacherReply:
        raise BudgetDenied("no", scope="session:s", free_nusd=0, why="cap")

    with pytest.raises(BudgetDenied):
        LlmJudge().score(CASE, model="m", call=denied)


def test_a_comparison_costs_one_call_and_hides_the_reference_too() -> None:
    scores = {"student_score": 0, "teacher_score": 1, "reasoning": "Only Paris on the Seine fits."}
    teacher = ScriptedTeacher([calls_tools(("submit_verdict", scores))])

    found = LlmJudge().compare(
        task="Capital of France?",
        student_output="Lyon",
        teacher_output="Paris",
        reference="Paris on the Seine",
        model="m",
        call=calling(teacher),
    )

    assert found == Comparison(student_score=0, teacher_score=1, reasoning="Only [***] fits.")
    teacher.assert_finished()
