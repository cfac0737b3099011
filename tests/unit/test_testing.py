"""The fakes keep their ports' promises, and fail the test where they were not prepared."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from worker.core.teaching import TeacherReply, TeacherRequest
from worker.core.values import RunOutcome, Usage
from worker.errors import DiagnosisError, StudentFault, TeacherFault
from worker.ports import Announcement, StudentAnswer
from worker.testing import (
    CollectedHints,
    ManualClock,
    ScriptedStudent,
    ScriptedTeacher,
    StudentRun,
    calls_tools,
    says,
)

if TYPE_CHECKING:
    from worker.ports import Clock, Hints, Student, Teacher

REQUEST = TeacherRequest(
    model="m", max_tokens=10, system=[], messages=[{"role": "user", "content": "why?"}]
)
OVERLOADED = TeacherFault("529 overloaded", billing="unbilled", retry="later")
TIMEOUT = StudentFault("no answer", reason="timeout", retryable=True)


def ports() -> tuple[Clock, Hints, Teacher, Student]:
    """Return the fakes as their ports: the type checker reads this."""
    return ManualClock(), CollectedHints(), ScriptedTeacher([]), ScriptedStudent({})


def send(teacher: ScriptedTeacher, *, stopped: bool = False) -> tuple[TeacherReply, list[Usage]]:
    started: list[Usage] = []
    answered: list[str] = []
    reply = teacher.send(
        REQUEST,
        on_answer=answered.append,
        on_start=started.append,
        stopped=lambda: stopped,
    )
    assert answered == [reply.request_id]
    return reply, started


def test_a_manual_clock_moves_when_it_is_told_and_never_back() -> None:
    clock = ManualClock(100)

    assert (clock.now_ms(), clock.advance(5), clock.now_ms()) == (100, 105, 105)
    with pytest.raises(ValueError, match="-1 ms"):
        clock.advance(-1)


def test_hints_are_taken_once_and_remembered() -> None:
    hints = CollectedHints()
    one, two = (Announcement(session_id="s", step_id=name, queue="tools") for name in "ab")

    hints.tell([one, two])
    hints.tell([one])

    assert (hints.take(), hints.take()) == ((one, two, one), ())
    assert hints.told == [one, two, one]


def test_a_scripted_teacher_follows_its_script_and_counts_the_prompt_first() -> None:
    usage = Usage(input_tokens=3, cache_read_tokens=4, output_tokens=5)
    asked = says("asked")
    teacher = ScriptedTeacher([says("one", usage=usage), OVERLOADED, lambda _: asked])

    reply, started = send(teacher)
    with pytest.raises(TeacherFault, match="529"):
        send(teacher)
    last, _ = send(teacher)

    assert reply.content == [{"type": "text", "text": "one"}]
    assert started == [replace(usage, output_tokens=0)]
    assert last is asked
    assert teacher.requests == [REQUEST] * 3
    teacher.assert_finished()


def test_a_scripted_teacher_that_is_stopped_leaves_an_unknown_outcome() -> None:
    with pytest.raises(TeacherFault) as caught:
        send(ScriptedTeacher([says("long")]), stopped=True)

    assert caught.value.billing == "unknown"


def test_an_unbilled_reply_starts_nothing() -> None:
    refusal = replace(says("", stop_reason="refusal"), unbilled=True)

    assert send(ScriptedTeacher([refusal])) == (refusal, [])
    assert refusal.content == []


def test_tool_calls_have_ids_of_their_own() -> None:
    reply = calls_tools(("get_trace", {"trace_id": "t"}), ("list_traces", {}), text="look")

    assert [block.get("id") for block in reply.content] == [
        None,
        "msg_scripted.0",
        "msg_scripted.1",
    ]
    assert reply.content[1]["input"] == {"trace_id": "t"}
    assert reply.stop_reason == "tool_use"


def test_the_end_of_the_script_fails_the_test_and_not_the_session() -> None:
    teacher = ScriptedTeacher([])

    with pytest.raises(AssertionError, match=r"request 1 came after.*why\?") as caught:
        send(teacher)

    assert not isinstance(caught.value, DiagnosisError)


def test_lines_that_nobody_asked_for_fail_the_test() -> None:
    with pytest.raises(AssertionError, match="1 lines of the script were never asked for"):
        ScriptedTeacher([says("unheard")]).assert_finished()


def test_a_scripted_student_answers_from_a_mapping_after_its_faults() -> None:
    student = ScriptedStudent({"2+2": "four", "?": None}, faults={"2+2": [TIMEOUT]})

    with pytest.raises(StudentFault):
        student.answer("2+2", seed=0, run_id="r0")
    answer = student.answer("2+2", seed=1, run_id="r1")
    empty = student.answer("?", seed=0, run_id="r2")

    assert (answer.outcome, answer.content) == (RunOutcome.ANSWERED, "four")
    assert (empty.outcome, empty.content) == (RunOutcome.EMPTY, None)
    assert student.runs == [
        StudentRun(query="2+2", seed=0, run_id="r0"),
        StudentRun(query="2+2", seed=1, run_id="r1"),
        StudentRun(query="?", seed=0, run_id="r2"),
    ]


def test_a_scripted_student_may_be_a_function_of_query_and_seed() -> None:
    cut = StudentAnswer(outcome=RunOutcome.CUT, content="four an")
    lines = {0: "four", 1: "", 2: cut, 3: TIMEOUT}
    student = ScriptedStudent(lambda _, seed: lines[seed])

    outcomes = [student.answer("2+2", seed=seed, run_id="r").outcome for seed in range(3)]

    assert outcomes == [RunOutcome.ANSWERED, RunOutcome.EMPTY, RunOutcome.CUT]
    with pytest.raises(StudentFault):
        student.answer("2+2", seed=3, run_id="r")


def test_a_scripted_student_answers_many_at_once() -> None:
    """A function that waits for its fellows would hang if the student held a lock meanwhile."""
    together = threading.Barrier(4)

    def answer(_query: str, seed: int) -> str:
        together.wait(timeout=10)
        return str(seed)

    student = ScriptedStudent(answer)
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(student.answer, "q", seed=n, run_id=str(n)) for n in range(4)]

    assert [run.result().content for run in runs] == ["0", "1", "2", "3"]


def test_a_query_that_the_script_does_not_know_fails_the_test() -> None:
    with pytest.raises(AssertionError, match=r"asked '3\+3'"):
        ScriptedStudent({"2+2": "four"}).answer("3+3", seed=0, run_id="r")
