from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.tools import PlanError, PlannedRuns, plan_runs

TASKS = [f"task-{number:02}" for number in range(20)]


@given(
    st.lists(st.sampled_from([*TASKS, "task-99", ""]), min_size=1, max_size=30),
    st.integers(1, 20),
    st.integers(0, 300),
)
def test_a_plan_runs_what_was_asked_once_each_or_nothing(
    asked: list[str], repeats: int, runs_max: int
) -> None:
    planned = plan_runs(TASKS, {"task_ids": asked, "repeats": repeats}, runs_max=runs_max)

    if isinstance(planned, PlanError):
        assert not set(asked) <= set(TASKS) or len(set(asked)) * repeats > runs_max
    else:
        assert [runs.task_id for runs in planned] == list(dict.fromkeys(asked))
        assert {runs.attempts for runs in planned} == {repeats}
        assert sum(runs.attempts for runs in planned) <= runs_max


def test_one_task_is_one_run() -> None:
    assert plan_runs(TASKS, {"task_id": "task-07"}) == [PlannedRuns("task-07", 1)]


def test_an_unknown_task_is_named_with_its_neighbours_and_nothing_runs() -> None:
    planned = plan_runs(TASKS, {"task_ids": ["task-01", "tsk-02"], "repeats": 1})

    assert isinstance(planned, PlanError)
    assert "'tsk-02'; did you mean 'task-02'" in planned.message
    assert "Nothing was run" in planned.message
    assert "'task-01'" not in planned.message.split(";")[0]


@pytest.mark.parametrize("count", [6, 40])
def test_many_unknown_tasks_are_counted(count: int) -> None:
    asked = [f"nope-{number}" for number in range(count)]

    planned = plan_runs(TASKS, {"task_ids": asked, "repeats": 1})

    assert isinstance(planned, PlanError)
    assert f"and {count - 5} more" in planned.message


def test_too_many_runs_show_the_sum() -> None:
    planned = plan_runs(TASKS, {"task_ids": TASKS[:15], "repeats": 20})

    assert isinstance(planned, PlanError)
    assert "15 tasks times 20 repeats are 300 runs; at most 200" in planned.message
