from __future__ import annotations

import pytest

from worker.student.playback import Recording, Recordings


def run(task_id: str, attempt: int) -> Recording:
    return Recording(
        task_id=task_id, attempt=attempt, trace_id=f"{task_id}/{attempt}", output=f"said {attempt}"
    )


def test_a_seed_stands_for_the_recorded_run_of_that_number_round_and_round() -> None:
    recordings = Recordings([run("t", 2), run("t", 0), run("t", 1)], {"t": "Q?"})

    played = [recordings.run("t", seed) for seed in range(5)]

    assert [one.attempt for one in played if one] == [0, 1, 2, 0, 1]


def test_a_task_is_known_by_its_query_and_nothing_else() -> None:
    recordings = Recordings([run("t", 0)], {"t": "Q?", "u": "R?"})

    assert recordings.task_of(" Q?\n") == "t"
    assert recordings.task_of("Q") is None
    assert recordings.run("u", 0) is None


def test_two_tasks_with_the_same_query_are_refused() -> None:
    with pytest.raises(ValueError, match="the same query"):
        Recordings([], {"t": "Q?", "u": "Q? "})


def test_a_run_of_a_task_that_the_benchmark_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="no task 'x'"):
        Recordings([run("x", 0)], {"t": "Q?"})
