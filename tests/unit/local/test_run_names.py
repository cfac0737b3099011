"""Runs that the teacher was shown may be named as samples, in a call and in the closing reply."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.local.user_code import Engine, asks, cluster, make_runner

if TYPE_CHECKING:
    from pathlib import Path

_TASKS = ("task-0", "task-1", "task-2")


def _submits(messages: list[Any], more: dict[str, Any]) -> dict[str, Any]:
    """Submit a cluster of the runs that the last tool results name."""
    shown = [json.loads(message.content) for message in messages if message.role == "tool"]
    names = [result["trace_id"] for result in shown]
    submission = {"diagnosis_md": "Sums", "clusters": [cluster(*names)]}
    return asks(("submit_diagnosis", submission))


def test_runs_are_accepted_as_samples_of_a_submission(tmp_path: Path) -> None:
    runs = asks(*(("run_student_on_task", {"task_id": task}) for task in _TASKS))
    engine = Engine(runs, _submits, AssertionError("the submission was not accepted"))

    result = make_runner(tmp_path, engine).run()

    assert result.outcome == "concluded"
    assert result.clusters[0].sample_trace_ids == ["run-1.0.0", "run-1.1.0", "run-1.2.0"]
    assert result.clusters[0].student_failure_rate == pytest.approx(1.0)


def test_runs_are_accepted_as_samples_of_the_closing_submission(tmp_path: Path) -> None:
    runs = asks(*(("run_student_on_task", {"task_id": task}) for task in _TASKS))
    names = ("run-1.0.0", "run-1.1.0", "run-1.2.0")
    submission = {"diagnosis_md": "Sums", "clusters": [cluster(*names)]}
    engine = Engine(runs, asks(("submit_diagnosis", submission)), AssertionError("one call more"))

    result = make_runner(tmp_path, engine, max_turns=1).run()

    assert result.outcome == "concluded"
    assert result.clusters[0].sample_trace_ids == list(names)
    # A submission that was not accepted as it is would have been read as text, its fence included.
    assert "```json" not in result.diagnosis_md
