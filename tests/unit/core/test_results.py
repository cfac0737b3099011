"""Results as the teacher is shown them: short, whole as JSON, and every character within reach."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.core.told import Told, text_of
from worker.core.events import RunRecorded, TeacherReplied
from worker.core.machine import fold
from worker.core.results import SHOWN_CHARS, call_result, find_result
from worker.core.values import Text, ToolCall

if TYPE_CHECKING:
    from worker.core.machine import Session

#: Texts whose JSON is up to six times as long.
AWKWARD = st.text(max_size=40) | st.sampled_from(["\x01", '"', "\\", "é", "word ", "\u2028", "🙂"])
LENGTHS = st.sampled_from([0, 1, 3, 90, 700, 9_000])


def run_of(tasks: int, repeats: int, output: str, *, why: str = "", letter: str = "f") -> Session:
    """Return a session that ran the student on some tasks, each answer being `output`."""
    told = Told.prepared().students(**{f"task_{n}": letter * repeats for n in range(tasks)})
    return fold(
        replace(event, output=Text(text=output), why=why)
        if isinstance(event, RunRecorded) and event.output
        else event
        for event in told.events
    )


def shown(session: Session, place: str = "1.0") -> dict[str, Any]:
    turn, index = map(int, place.split("."))
    text, is_error = call_result(session, turn, index, text_of)
    assert not is_error
    assert len(text) <= SHOWN_CHARS
    return json.loads(text)


def whole(session: Session, handle: str) -> str:
    text = find_result(session, handle, text_of)
    assert text is not None
    return text


# ------------------------------------------------------------------------------------------- the laws


@given(
    tasks=st.integers(1, 60),
    repeats=st.integers(1, 5),
    bit=AWKWARD,
    length=LENGTHS,
    letter=st.sampled_from("pfxuje"),
)
def test_a_batch_is_short_and_all_of_it_can_be_reached(
    tasks: int, repeats: int, bit: str, length: int, letter: str
) -> None:
    output = (bit * length)[:length]
    session = run_of(tasks, repeats, output, why=output, letter=letter)

    result = shown(session)
    rows = json.loads(whole(session, "call@1.0"))["tasks"]

    assert len(rows) == tasks
    for row in rows:
        for run in row["runs"]:
            assert run["output"] == (output if letter not in "xe" else None)
            if run["output"] is not None:
                assert whole(session, f"run@{run['trace_id']}") == output
    if result != {"untrusted_data": True, "tasks": rows}:
        shown_runs = [run for row in result["tasks"] for run in row.get("runs", [])]
        cut = [run for run in shown_runs if {"output_chars", "why_chars"} & set(run)]
        assert not (cut or "truncated" in result) or result["read_more"]["handle"] == "call@1.0"


@given(bit=AWKWARD, length=LENGTHS)
def test_a_single_run_is_short_and_read_on_where_it_was_cut(bit: str, length: int) -> None:
    output = (bit * length)[:length]
    session = single(output)

    result = shown(session)

    if "read_more" in result:
        rest = whole(session, result["read_more"]["handle"])[result["read_more"]["offset"] :]
        assert result["output"].removesuffix("…") + rest == output
        assert result["output_chars"] == len(output)
    else:
        assert result["output"] == output


def single(output: str, why: str = "") -> Session:
    """Return a session that ran the student once, by the tool for one run."""
    told = Told.prepared().students(t_1="f")
    made = ToolCall(call_id="c", tool="run_student_on_task", arguments_json="{}")
    changed = [
        replace(event, calls=(made,))
        if isinstance(event, TeacherReplied)
        else replace(event, output=Text(text=output), why=why)
        if isinstance(event, RunRecorded)
        else event
        for event in told.events
    ]
    return fold(changed)


@given(bit=AWKWARD, length=LENGTHS)
def test_an_own_run_is_short_and_whole_behind_its_handle(bit: str, length: int) -> None:
    output = (bit * length)[:length]
    told = Told.prepared().teacher(t_1="f")
    session = fold(
        replace(event, output=Text(text=output)) if isinstance(event, RunRecorded) else event
        for event in told.events
    )

    result = shown(session)

    assert json.loads(whole(session, "call@1.0"))["output"] == output
    assert ("read_more" in result) == (result["output"] != output)


# ------------------------------------------------------------------------------------------- examples


def test_a_small_batch_shows_all_that_a_rate_is_counted_from() -> None:
    session = run_of(2, 2, "41")

    assert shown(session) == {
        "untrusted_data": True,
        "tasks": [
            {
                "task_id": f"task-{n}",
                "passed": 0,
                "counted": 2,
                "faults": 0,
                "failure_rate": 1.0,
                "runs": [
                    {
                        "score": 0.0,
                        "passed": False,
                        "output": "41",
                        "trace_id": f"run-1.0.{2 * n + k}",
                    }
                    for k in range(2)
                ],
            }
            for n in range(2)
        ],
    }


def test_of_a_large_batch_the_failures_are_shown_first() -> None:
    told = Told.prepared().students(**{f"t_{n}": "pf" for n in range(10)})
    session = fold(
        replace(event, output=Text(text="x" * 500)) if isinstance(event, RunRecorded) else event
        for event in told.events
    )

    runs = [run for row in shown(session)["tasks"] for run in row["runs"]]

    assert {run["output"] for run in runs if run["passed"]} == {None}
    assert {len(run["output"]) for run in runs if not run["passed"]} == {81}
    assert {run["output_chars"] for run in runs} == {500}


def test_a_batch_too_large_for_runs_has_its_counts() -> None:
    result = shown(run_of(60, 3, "x" * 500))

    assert result["totals"]["runs"] == 180
    assert result["totals"]["tasks"] == 60
    assert result["totals"]["failure_rate"] == 1.0
    assert result["truncated"] is True
    assert 30 < len(result["tasks"]) < 60


def test_a_reason_that_is_cut_is_within_reach_too() -> None:
    session = single("41", why="because " * 100)

    result = shown(session)

    assert result["why_chars"] == 800
    assert json.loads(whole(session, result["read_more"]["handle"]))["tasks"][0]["runs"][0][
        "why"
    ] == ("because " * 100)


def test_an_answered_call_can_be_read_again() -> None:
    session = Told.prepared().reads("get_trace", {"trace_id": "t"}, "the trace").session

    assert whole(session, "call@1.0") == "the trace"


@pytest.mark.parametrize(
    "handle",
    [
        *("", "call@", "call@1", "call@0.0", "call@2.0", "call@1.1", "call@-1.0", "call@1.0 "),
        *("call@../../etc/passwd", "run@run-1.0.9", "run@run-1.0", "run@run-0.0.0", "run@x"),
        *("call@1.0\n", "call@\uff19.0", "run@run-9999999.0.0"),
    ],
)
def test_a_handle_of_nothing_names_nothing(handle: str) -> None:
    assert find_result(run_of(1, 1, "41"), handle, text_of) is None


def test_a_call_under_way_cannot_be_read_yet() -> None:
    told = Told.prepared().students(t_1="p ")

    assert find_result(told.session, "call@1.0", text_of) is None
    assert find_result(told.session, "run@run-1.0.0", text_of) == "42"
    assert find_result(told.session, "run@run-1.0.1", text_of) is None
