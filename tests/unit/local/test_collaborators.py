"""Students and judges of every kind, and what of it counts."""

from __future__ import annotations

import json
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock, Mock  # noqa: TID251 - users of the reference bring such objects

import pytest

from tests.unit.local.user_code import (
    Engine,
    Judge,
    Sample,
    StudentResult,
    asks,
    cluster,
    diagnosis,
    make_runner,
    says,
)
from worker.core.teaching import JudgeRequest
from worker.core.values import RunOutcome
from worker.errors import DiagnosisError, StudentFault
from worker.local.collaborators import CallableStudent, TraceJudge
from worker.local.crew import Crew

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from worker.core.teaching import Verdict
    from worker.local import DiagnosisResult
    from worker.ports import StudentAnswer


# ---------------------------------------------------------------------------------------- students


def answer(runner: Callable[..., object]) -> StudentAnswer:
    return CallableStudent(runner, "session-1", str).answer("What?", seed=0, run_id="r")


def _returns(result: object) -> Callable[..., object]:
    def runner(query: str, session_id: str = "") -> object:
        return result

    return runner


@pytest.mark.parametrize(
    ("result", "content"),
    [
        (StudentResult("5"), "5"),
        (SimpleNamespace(content="5"), "5"),
        ({"content": "5"}, "5"),
        ("5", "5"),
        (7, "7"),
        (StudentResult(" 5\n"), " 5\n"),
        (SimpleNamespace(content=b"5"), "5"),
        ("half \ud83d pair", "half \ufffd pair"),
        ({"text": "5"}, '{"text": "5"}'),
    ],
)
def test_what_a_student_says_is_its_answer(result: object, content: str) -> None:
    got = answer(_returns(result))

    assert (got.outcome, got.content) == (RunOutcome.ANSWERED, content)


@pytest.mark.parametrize("result", [None, "", StudentResult(""), SimpleNamespace(content=None)])
def test_nothing_said_is_an_empty_answer_and_not_the_word_none(result: object) -> None:
    got = answer(_returns(result))

    assert (got.outcome, got.content) == (RunOutcome.EMPTY, None)


async def _asynchronous(query: str, session_id: str = "") -> str:
    return "5"


def _raises(query: str, session_id: str = "") -> str:
    raise RuntimeError("no model")


class _Broken:
    @property
    def content(self) -> str:
        raise RuntimeError("no content")


#: What OpenJarvis's own student runner returns where its server failed.
_FAILED = StudentResult("Error: Server error '503 Service Unavailable'", trace_id="")


@pytest.mark.parametrize(
    ("runner", "reason"),
    [
        (_raises, "raised"),
        (_returns(_Broken()), "raised"),
        (_returns(MagicMock()), "bad_body"),
        (Mock(), "bad_body"),
        (_asynchronous, "bad_body"),
        (_returns(_FAILED), "server_error"),
        ("no function", "raised"),
    ],
)
def test_what_is_no_answer_is_a_fault(runner: Any, reason: str) -> None:
    with pytest.raises(StudentFault) as caught:
        answer(runner)

    assert (caught.value.reason, caught.value.retryable) == (reason, False)


@pytest.mark.parametrize(
    "result",
    [
        "Error: there is no such word",
        StudentResult("Error: there is no such word", trace_id="t-1", tokens_used=9),
        StudentResult("Errors: 3", trace_id=""),
    ],
)
def test_an_answer_may_begin_like_an_error(result: object) -> None:
    assert answer(_returns(result)).outcome is RunOutcome.ANSWERED


def test_the_numbers_of_a_result_are_read_where_they_are_numbers() -> None:
    told = StudentResult("5", trace_id="t-1", latency_seconds=1.5, tokens_used=7)
    odd = SimpleNamespace(content="5", latency_seconds=float("nan"), tokens_used="many")

    got, not_got = answer(_returns(told)), answer(_returns(odd))

    assert (got.latency_ms, got.completion_tokens, got.response_id) == (1_500, 7, "t-1")
    assert (not_got.completion_tokens, not_got.response_id) == (0, "")
    assert 0 <= not_got.latency_ms < 1_000


def _listens(query: str, *, session_id: str) -> str:
    return f"{query} {session_id}"


def _takes_all(*words: str, **more: str) -> str:
    return " ".join([*words, *more.values()])


def _does_not_listen(query: str) -> str:
    return query


@pytest.mark.parametrize(
    ("runner", "told"),
    [
        (_listens, "What? session-1"),
        (_takes_all, "What? session-1"),
        (_does_not_listen, "What?"),
    ],
)
def test_a_student_is_told_the_session_where_it_listens(
    runner: Callable[..., object], told: str
) -> None:
    assert answer(runner).content == told


# ------------------------------------------------------------------------------------------ judges


class _JudgeOf:
    def __init__(self, verdict: object) -> None:
        self._verdict = verdict
        self.seen: Any = None

    def score_trace(self, trace: object) -> object:
        self.seen = trace
        if isinstance(self._verdict, Exception):
            raise self._verdict
        return self._verdict


def verdict(judge: object, reference: str = "5") -> Verdict:
    request = JudgeRequest(task="What is 2 + 3?", output="6", reference=reference)

    def never(_: object) -> Any:
        raise AssertionError("no paid call")

    return TraceJudge(judge, str).score(request, model="m", call=never)


@pytest.mark.parametrize(
    ("said", "score", "passed"),
    [
        ((0.8, "right"), 0.8, True),
        ([0.4, "wrong"], 0.4, False),
        ((1, "right"), 1.0, True),
        ((True, "right"), 1.0, True),
        ((False, None), 0.0, False),
        (0.5, 0.5, True),
        ((0.9, "right", "more"), 0.9, True),
    ],
)
def test_a_score_is_read(said: object, score: float, passed: bool) -> None:
    read = verdict(_JudgeOf(said))

    assert (read.score, read.passed) == (score, passed)


@pytest.mark.parametrize(
    "judge",
    [
        None,
        object(),
        MagicMock(),
        _JudgeOf(RuntimeError("no model")),
        _JudgeOf((float("nan"), "")),
        _JudgeOf((85, "out of a hundred")),
        _JudgeOf((-0.1, "")),
        _JudgeOf(("0.8", "as text")),
        _JudgeOf((None, "")),
        _JudgeOf(()),
    ],
)
def test_what_is_no_score_is_none(judge: object) -> None:
    with pytest.raises(DiagnosisError):
        verdict(judge)


def test_the_reference_stays_with_the_judge() -> None:
    judge = _JudgeOf((0.0, "The right answer is forty-two thousand"))

    read = verdict(judge, reference="forty-two thousand")

    assert judge.seen.metadata == {"reference_answer": "forty-two thousand"}
    assert "forty-two" not in read.reasoning


def test_both_outputs_of_a_comparison_are_judged_as_in_the_reference() -> None:
    seen: list[tuple[str, str, str]] = []

    class Judging:
        def score_trace(self, trace: Any) -> tuple[float, str]:
            seen.append((trace.agent, trace.model, trace.result))
            return len(trace.result) / 10, f"of {trace.agent}"

    compared = TraceJudge(Judging(), str).compare(
        task="t",
        student_output="a",
        teacher_output="bcd",
        reference="",
        model="m",
        call=MagicMock(),
    )

    assert seen == [("student", "local", "a"), ("teacher", "frontier", "bcd")]
    assert (compared.student_score, compared.teacher_score) == (0.1, 0.3)
    assert compared.reasoning == "of student"


# ---------------------------------------------------------------------------------------- evidence

_END = says(diagnosis(cluster("t0", "t1", "t2")))


def _measured(
    tmp_path: Path, tasks: list[Sample], judge: object, says_what: str
) -> DiagnosisResult:
    calls = asks(*(("run_student_on_task", {"task_id": task.trace_id}) for task in tasks))
    runner = make_runner(
        tmp_path,
        Engine(calls, _END),
        tasks=tasks,
        judge=judge,
        student=_returns(StudentResult(says_what, score=1.0)),
    )
    return runner.run()


def _tasks(metadata: dict[str, Any]) -> list[Sample]:
    return [Sample(f"t{n}", f"{n}?", "right", metadata=metadata) for n in range(3)]


def _counted(tmp_path: Path) -> dict[str, int]:
    session = json.loads((tmp_path / "session" / "session.json").read_text(encoding="utf-8"))
    return session["counts"]["student_runs"]


@pytest.mark.parametrize(("says_what", "rate"), [("right", 0.0), ("wrong", 1.0)])
@pytest.mark.parametrize("metadata", [{}, {"scorer": "exact"}], ids=["judge", "scorer"])
def test_runs_are_scored_by_the_tasks_scorer_or_the_judge_and_not_by_the_student(
    tmp_path: Path, metadata: dict[str, Any], says_what: str, rate: float
) -> None:
    judge = None if metadata else Judge()

    result = _measured(tmp_path, _tasks(metadata), judge, says_what)

    assert result.clusters[0].student_failure_rate == rate
    assert (_counted(tmp_path)["counted"], _counted(tmp_path)["unjudged"]) == (3, 0)


@pytest.mark.parametrize("judge", [None, _JudgeOf((float("nan"), "")), _JudgeOf(OSError("down"))])
def test_a_run_that_nobody_can_score_counts_neither_way(tmp_path: Path, judge: object) -> None:
    result = _measured(tmp_path, _tasks({}), judge, "right")

    assert (_counted(tmp_path)["counted"], _counted(tmp_path)["unjudged"]) == (0, 3)
    (found,) = result.clusters
    # There is only the teacher's word.
    assert (found.student_failure_rate, found.evidence) == (0.75, "claimed")


def test_a_fault_counts_neither_way(tmp_path: Path) -> None:
    calls = asks(*(("run_student_on_task", {"task_id": f"t{n}"}) for n in range(3)))
    runner = make_runner(
        tmp_path, Engine(calls, _END), tasks=_tasks({"scorer": "exact"}), student=_returns(_FAILED)
    )

    runner.run()

    assert (_counted(tmp_path)["counted"], _counted(tmp_path)["faults"]) == (0, 3)


# ------------------------------------------------------------------------------------------- crews


def test_a_crew_has_as_many_threads_as_are_needed_and_no_more() -> None:
    begun = threading.Barrier(3)

    def work(_: int) -> None:
        begun.wait(timeout=5)

    crew = Crew[int](work, size=2)

    crew.put(1)
    crew.put(2)
    begun.wait(timeout=5)

    assert crew.close(5) == 0


def test_a_crew_says_how_many_of_its_threads_do_not_come_back() -> None:
    begun, release = threading.Event(), threading.Event()

    def stuck(_: int) -> None:
        begun.set()
        release.wait(timeout=5)

    crew = Crew[int](stuck, size=1)
    crew.put(1)
    assert begun.wait(timeout=5)

    assert crew.close(0.01) == 1
    release.set()
    assert crew.close(5) == 0


def test_a_closed_crew_drops_what_nobody_has_begun() -> None:
    done: list[int] = []
    begun, release = threading.Event(), threading.Event()

    def work(item: int) -> None:
        begun.set()
        release.wait(timeout=5)
        done.append(item)

    crew = Crew[int](work, size=1)
    for item in range(3):
        crew.put(item)
    assert begun.wait(timeout=5)
    crew.close(0)
    crew.put(4)
    release.set()

    assert crew.close(5) == 0
    assert done == [0]
