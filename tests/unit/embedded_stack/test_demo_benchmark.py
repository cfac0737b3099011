from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING

from worker.bundle.open import open_bundle
from worker.bundle.pack import pack
from worker.core.scoring import score, validate_scorer
from worker.core.values import RunOutcome
from worker.embedded.demo_benchmark import (
    AGENT,
    SYSTEM_PROMPT,
    answer_key,
    benchmark,
    demo_tasks,
    is_right,
    write_home,
)
from worker.ports import StudentAnswer
from worker.traces.model import TraceFilter, TraceOutcome

if TYPE_CHECKING:
    from pathlib import Path

NOW_MS = 1_800_000_000_000


class StoppedClock:
    def now_ms(self) -> int:
        return NOW_MS


def said(content: str | None) -> StudentAnswer:
    return StudentAnswer(
        outcome=RunOutcome.EMPTY if content is None else RunOutcome.ANSWERED,
        content=content,
        prompt_tokens=20,
        completion_tokens=5,
        latency_ms=100,
        finish_reason="stop",
        model="some-model",
    )


def answers() -> dict[str, StudentAnswer]:
    """Return right answers to all tasks but the first three: a wrong, an empty, and none at all."""
    right = {task.task_id: said(task.answer) for task in demo_tasks()}
    first, second, third, *_ = right
    del right[third]
    return {**right, first: said("a nonsense"), second: said(None)}


def test_there_are_forty_tasks_in_eight_categories() -> None:
    assert Counter(Counter(task.category for task in demo_tasks()).values()) == {5: 8}


def test_every_task_has_a_scorer_that_accepts_its_answer_and_no_other() -> None:
    for task in demo_tasks():
        validate_scorer(task.scorer.name, task.scorer.options, task.answer)
        assert is_right(task, said(task.answer)), task.task_id
        assert not is_right(task, said("I do not know.")), task.task_id
        assert not is_right(task, said(None)), task.task_id


def test_no_task_is_solved_by_repeating_the_question() -> None:
    # In extraction tasks the answer is in the text: finding it there is the task.
    for task in demo_tasks():
        if task.category != "extraction":
            assert not is_right(task, said(task.query)), task.task_id


def test_the_teachers_key_tells_the_tasks_apart() -> None:
    queries = [row["query"] for row in answer_key()]

    assert len(set(queries)) == len(queries) == len(demo_tasks())
    assert not [(a, b) for a in queries for b in queries if a != b and a in b]


def test_the_home_packs_into_a_bundle_that_shows_what_the_student_said(tmp_path: Path) -> None:
    write_home(tmp_path / "home", answers(), StoppedClock())
    packed = pack(tmp_path / "home", tmp_path / "packed")

    with open_bundle(packed.path, tmp_path / "bundle", sha256=packed.sha256) as bundle:
        wrong = bundle.traces.list(TraceFilter(outcome=TraceOutcome.FAILURE))
        first = bundle.traces.get("trace-arithmetic-1")
        prompt = bundle.agent_prompt(AGENT)
        samples = bundle.benchmark.samples

    assert packed.remarks == ()
    assert [one.task_id for one in wrong.summaries] == ["arithmetic-2", "arithmetic-1"]
    assert first is not None
    assert first.result == "a nonsense"
    assert prompt is not None
    assert prompt.strip() == SYSTEM_PROMPT
    for task, sample in zip(demo_tasks(), samples, strict=True):
        assert sample.scorer == task.scorer


def test_each_answer_makes_one_trace_with_its_steps_and_the_last_one_ends_now(
    tmp_path: Path,
) -> None:
    write_home(tmp_path, answers(), StoppedClock())
    write_home(tmp_path, answers(), StoppedClock())  # again: overwrites

    with closing(sqlite3.connect(tmp_path / "traces.db")) as db:
        outcomes = Counter(row[0] for row in db.execute("SELECT outcome FROM traces"))
        (last,) = db.execute("SELECT max(ended_at) FROM traces").fetchone()
        steps = {row[0] for row in db.execute("SELECT count(*) FROM trace_steps GROUP BY trace_id")}
        (found,) = db.execute(
            "SELECT count(*) FROM traces_fts WHERE traces_fts MATCH 'nonsense'"
        ).fetchone()
        (metadata,) = db.execute("SELECT metadata FROM traces LIMIT 1").fetchone()

    assert outcomes == {"success": 37, "failure": 2}
    assert last == NOW_MS / 1000
    assert steps == {2}
    assert found == 1
    assert json.loads(metadata)["task_id"] == "arithmetic-1"


def test_the_benchmark_holds_the_answers_that_its_scorers_compare_with() -> None:
    for sample in benchmark()["samples"]:
        scorer = dict(sample["metadata"]["scorer"])
        name = scorer.pop("name")

        assert score(name, scorer, sample["reference_answer"], sample["reference_answer"]).passed
