"""Whole runs: what comes back, what is written, and how runs end that do not go well."""

from __future__ import annotations

import contextvars
import datetime as dt
import json
import os
import signal
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.unit.local.user_code import (
    Engine,
    Sample,
    Store,
    StudentResult,
    Trace,
    asks,
    cluster,
    diagnosis,
    make_runner,
    says,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_TASKS = ("task-0", "task-1", "task-2")
_RUNS = asks(*(("run_student_on_task", {"task_id": task}) for task in _TASKS))
_END = says(diagnosis(cluster(*_TASKS)))
#: The reference's keys of a line of diagnose.jsonl.
_RECORD_KEYS = ["timestamp", "tool", "args", "result", "latency_ms", "cost_usd"]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


# ------------------------------------------------------------------------------------ what is there


def test_a_run_gives_the_references_result_and_files(tmp_path: Path) -> None:
    engine = Engine(asks(("list_traces", {"limit": 5}), text="Let me look."), _RUNS, _END)

    result = make_runner(tmp_path, engine, trace_store=Store([Trace("trace-1")])).run()

    (found,) = result.clusters
    assert (found.id, found.description, found.skill_gap) == (
        "arithmetic",
        "Sums are wrong",
        "Cannot carry",
    )
    assert found.sample_trace_ids == list(_TASKS)
    assert found.student_failure_rate == pytest.approx(1.0)
    assert found.teacher_success_rate == pytest.approx(0.95)
    assert found.addressed_by_edit_ids == []
    assert result.cost_usd == pytest.approx(0.03)
    assert [record.tool for record in result.tool_call_records] == [
        "list_traces",
        *["run_student_on_task"] * 3,
    ]
    folder = tmp_path / "session"
    assert (folder / "diagnosis.md").read_text(encoding="utf-8") == result.diagnosis_md
    assert result.diagnosis_md.startswith("The student cannot add.")
    lines = (folder / "teacher_traces" / "diagnose.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 4
    for line, record in zip(lines, result.tool_call_records, strict=True):
        row = json.loads(line)
        assert list(row)[: len(_RECORD_KEYS)] == _RECORD_KEYS
        said = record.to_jsonl_dict()
        assert list(said) == _RECORD_KEYS
        assert {**said, "timestamp": ""} == {**{k: row[k] for k in _RECORD_KEYS}, "timestamp": ""}
        assert dt.datetime.fromisoformat(said["timestamp"]) == record.timestamp
        assert record.timestamp.tzinfo is not None


def test_the_manifest_says_what_was_written_and_nothing_partial_is_left(tmp_path: Path) -> None:
    make_runner(tmp_path, Engine(_RUNS, _END)).run()

    folder = tmp_path / "session"
    listed = read_json(folder / "manifest.json")["files"]
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert written == {*listed, "manifest.json"}
    assert all(
        (folder / name).stat().st_size == file["size_bytes"] for name, file in listed.items()
    )


def test_a_runner_can_be_run_again_into_the_same_folder(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, Engine(_END), session_dir=str(tmp_path / "session"))

    first, second = runner.run(), runner.run()

    assert first.clusters == second.clusters
    assert (first.tool_call_records, second.cost_usd) == ([], pytest.approx(0.01))


def test_text_without_clusters_is_followed_by_one_call_for_them(tmp_path: Path) -> None:
    engine = Engine(_RUNS, says("It cannot add."), says(json.dumps([cluster(*_TASKS)])))

    result = make_runner(tmp_path, engine).run()

    assert [one.id for one in result.clusters] == ["arithmetic"]
    assert result.diagnosis_md.startswith("It cannot add.")
    assert "tools" not in engine.requests[-1][1]
    assert len(engine.requests) == 3


def test_bad_calls_come_back_as_errors_and_the_run_goes_on(tmp_path: Path) -> None:
    calls = asks(
        ("list_traces", '{"limit": '),
        ("no_such_tool", {}),
        ("get_trace", {}),
        ("run_student_on_task", {"task_id": "none"}),
    )
    engine = Engine(calls, _END)

    result = make_runner(tmp_path, engine).run()

    assert len(result.tool_call_records) == 4
    assert all("error" in record.result for record in result.tool_call_records)
    assert result.tool_call_records[0].args == {"arguments": '{"limit": '}
    answers = [message for message in engine.requests[-1][0] if message.role == "tool"]
    assert [message.name for message in answers] == [
        "list_traces",
        "no_such_tool",
        "get_trace",
        "run_student_on_task",
    ]


def test_calls_that_share_an_id_get_their_own_results(tmp_path: Path) -> None:
    calls = asks(*(("run_student_on_task", {"task_id": task}) for task in _TASKS))
    for call in calls["tool_calls"]:
        call["id"] = "google_run_student_on_task"
    engine = Engine(calls, _END)

    make_runner(tmp_path, engine).run()

    (assistant,) = (message for message in engine.requests[-1][0] if message.role == "assistant")
    answers = [message for message in engine.requests[-1][0] if message.role == "tool"]
    sent = [call.id for call in assistant.tool_calls]
    assert len(set(sent)) == 3
    assert [message.tool_call_id for message in answers] == sent
    assert [json.loads(message.content)["task_id"] for message in answers] == list(_TASKS)


def test_a_cluster_is_a_pydantic_model_as_in_the_reference(tmp_path: Path) -> None:
    (found,) = make_runner(tmp_path, Engine(_RUNS, _END)).run().clusters

    changed = found.model_copy(update={"addressed_by_edit_ids": ["edit-1"]})

    assert changed.addressed_by_edit_ids == ["edit-1"]
    assert found.model_dump()["sample_trace_ids"] == list(_TASKS)


def test_context_variables_of_the_caller_are_there_for_students(tmp_path: Path) -> None:
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant")
    tenant.set("acme")
    seen: list[str] = []

    def student(query: str, session_id: str = "") -> StudentResult:
        seen.append(tenant.get("nobody"))
        return StudentResult("0")

    make_runner(tmp_path, Engine(_RUNS, _END), student=student).run()

    assert seen == ["acme"] * 3


# ------------------------------------------------------------------------------------------ limits


def test_turns_end_with_one_call_that_writes_the_diagnosis(tmp_path: Path) -> None:
    look = asks(("get_current_config", {}))
    engine = Engine(look, look, look, _END)

    result = make_runner(tmp_path, engine, max_turns=3).run()

    assert len(engine.requests) == 4
    assert result.diagnosis_md.startswith("The student cannot add.")
    assert [one.id for one in result.clusters] == ["arithmetic"]


@pytest.mark.parametrize("max_turns", [0, -5, 1])
def test_there_is_always_one_turn(tmp_path: Path, max_turns: int) -> None:
    engine = Engine(asks(("get_current_config", {})), _END)

    make_runner(tmp_path, engine, max_turns=max_turns).run()

    assert len(engine.requests) == 2


def test_calls_beyond_the_limit_are_records_too(tmp_path: Path) -> None:
    engine = Engine(asks(*[("get_current_config", "")] * 201), _END)

    result = make_runner(tmp_path, engine, max_turns=1).run()

    assert len(result.tool_call_records) == 201
    assert "Not executed" in result.tool_call_records[-1].result
    assert result.tool_call_records[-1].timestamp <= result.tool_call_records[0].timestamp


# ----------------------------------------------------------------------------------------- failures


def test_an_engine_that_raises_once_is_asked_again(tmp_path: Path) -> None:
    engine = Engine(_RUNS, RuntimeError("overloaded"), _END)

    result = make_runner(tmp_path, engine).run()

    assert result.outcome == "concluded"
    assert len(engine.requests) == 3


def test_an_engine_that_fails_in_mid_run_leaves_what_was_measured(tmp_path: Path) -> None:
    engine = Engine(_RUNS, RuntimeError("down"))

    result = make_runner(tmp_path, engine).run()

    assert result.outcome == "inconclusive"
    assert "task-0" in result.diagnosis_md
    assert len(result.tool_call_records) == 3


def test_an_engine_that_always_raises_ends_as_failed_and_soon(tmp_path: Path) -> None:
    engine = Engine(RuntimeError("no credit, key=sk-ant-api03-aaaaaaaaaaaaaaaaaaaaaaaa1"))
    began_s = time.monotonic()

    result = make_runner(tmp_path, engine).run()

    assert time.monotonic() - began_s < 3
    assert result.outcome == "failed"
    assert (result.clusters, result.cost_usd) == ([], 0.0)
    assert "no credit" in result.diagnosis_md
    assert "sk-ant" not in (tmp_path / "session" / "session.json").read_text(encoding="utf-8")
    assert read_json(tmp_path / "session" / "manifest.json")["files"]


def test_an_engine_that_says_nothing_ends_with_a_text(tmp_path: Path) -> None:
    result = make_runner(tmp_path, Engine(says(None))).run()

    assert result.outcome == "failed"
    assert result.diagnosis_md
    assert result.reason


def test_a_judge_and_a_student_that_raise_are_answers_of_the_tool(tmp_path: Path) -> None:
    def student(query: str) -> StudentResult:
        raise ValueError("no model")

    outputs = {"student_output": "a", "teacher_output": "b", "task": "anything"}
    engine = Engine(asks(("compare_outputs", outputs)), _RUNS, _END)

    result = make_runner(tmp_path, engine, student=student, judge=object()).run()

    compared, *runs = result.tool_call_records
    assert "the judge raised AttributeError" in compared.result
    assert all(json.loads(run.result)["outcome"] == "fault" for run in runs)


# ----------------------------------------------------------------------------------------- threads


def _sleepy(seconds: float) -> Any:
    def student(query: str, session_id: str = "") -> StudentResult:
        time.sleep(seconds)
        return StudentResult("0")

    return student


def _eight() -> tuple[list[Sample], dict[str, Any]]:
    tasks = [Sample(f"t{n}", f"{n}?", "1", metadata={"scorer": "exact"}) for n in range(8)]
    calls = asks(*(("run_student_on_task", {"task_id": task.trace_id}) for task in tasks))
    return tasks, calls


def test_the_runs_of_a_turn_go_side_by_side(tmp_path: Path) -> None:
    tasks, calls = _eight()
    runner = make_runner(tmp_path, Engine(calls, _END), tasks=tasks, student=_sleepy(0.2))
    began_s = time.monotonic()

    result = runner.run()

    took_s = time.monotonic() - began_s
    assert len(result.tool_call_records) == 8
    assert took_s < 0.6, f"8 runs of 0.2 s took {took_s:.2f} s"


def test_one_at_a_time_means_in_order_and_in_the_callers_thread(tmp_path: Path) -> None:
    tasks, calls = _eight()
    seen: list[tuple[str, bool]] = []

    def student(query: str, session_id: str = "") -> StudentResult:
        seen.append((query, threading.current_thread() is threading.main_thread()))
        return StudentResult("0")

    make_runner(tmp_path, Engine(calls, _END), tasks=tasks, student=student, parallel=1).run()

    assert seen == [(f"{n}?", True) for n in range(8)]


def test_ctrl_c_in_a_turn_ends_it_at_once_and_keeps_what_is_known(tmp_path: Path) -> None:
    def interrupted(*_: object) -> object:
        signal.raise_signal(signal.SIGINT)
        return says("never said")

    engine = Engine(_RUNS, interrupted)
    began_s = time.monotonic()

    with pytest.raises(KeyboardInterrupt):
        make_runner(tmp_path, engine).run()

    assert time.monotonic() - began_s < 2
    session = read_json(tmp_path / "session" / "session.json")
    assert (session["outcome"], session["counts"]["student_runs"]["counted"]) == ("cancelled", 3)
    assert session["cost"]["total_usd"] == "0.01"


def test_ctrl_c_while_students_run_waits_for_their_threads(tmp_path: Path) -> None:
    tasks, calls = _eight()
    once = threading.Event()

    def student(query: str, session_id: str = "") -> StudentResult:
        if not once.is_set():
            once.set()
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        return StudentResult("0")

    with pytest.raises(KeyboardInterrupt):
        make_runner(tmp_path, Engine(calls, _END), tasks=tasks, student=student).run()

    assert read_json(tmp_path / "session" / "session.json")["outcome"] == "cancelled"


@pytest.mark.parametrize("parallel", [1, 4])
def test_an_exit_in_a_student_is_an_exit_of_the_run(tmp_path: Path, parallel: int) -> None:
    def student(query: str, session_id: str = "") -> StudentResult:
        raise SystemExit(3)

    with pytest.raises(SystemExit, match="3"):
        make_runner(tmp_path, Engine(_RUNS, _END), student=student, parallel=parallel).run()

    assert (tmp_path / "session" / "manifest.json").exists()


def test_twenty_runs_leave_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "home").mkdir()
    process = psutil.Process()

    def run() -> None:
        make_runner(tmp_path, Engine(_RUNS, _END), trace_store=Store([Trace("t")])).run()

    run()
    files, threads = process.num_fds(), threading.active_count()
    for _ in range(20):
        run()

    assert process.num_fds() <= files
    assert threading.active_count() == threads
    assert {path.name for path in tmp_path.iterdir()} == {"home", "session"}
