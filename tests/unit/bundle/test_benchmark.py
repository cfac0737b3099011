from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given

from tests.unit.bundle.homes import tau_home
from tests.unit.traces.test_cells import JSON
from worker.bundle.benchmark import Benchmark, read_benchmark, write_benchmark
from worker.errors import BundleInvalid

GOOD = {"trace_id": "task-1", "query": "What is 1 + 1?"}


def read(*samples: object) -> Benchmark:
    return read_benchmark(json.dumps({"workflow_id": "w", "samples": samples}))


def test_a_sample_needs_no_more_than_an_id_and_a_query() -> None:
    benchmark = read(GOOD, {"task_id": "task-2", "query": "?", "feedback_score": None})

    first = benchmark.samples[0]
    assert benchmark.task_ids == ("task-1", "task-2")
    assert (first.category, first.reference_answer, first.feedback_score) == ("chat", "", None)
    assert first.scorer is None
    assert benchmark.get("task-2") is benchmark.samples[1]
    assert benchmark.get("task-3") is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"trace_id": None}, r"samples\[1\]\.trace_id must be .* got None"),
        ({"trace_id": 7}, r"samples\[1\]\.trace_id must be .* got 7"),
        ({"trace_id": "x" * 300}, r"samples\[1\]\.trace_id must be at most 200"),
        ({"trace_id": "a\nb"}, r"samples\[1\]\.trace_id must be at most 200 printable"),
        ({"trace_id": "task-1"}, r"samples\[1\]\.trace_id is 'task-1', as in samples\[0\]"),
        ({"query": "  "}, r"samples\[1\]\.query must be .* got '  '"),
        ({"query": ["a"]}, r"samples\[1\]\.query must be"),
        ({"reference_answer": 4}, r"samples\[1\]\.reference_answer must be a text or null, got 4"),
        ({"feedback_score": "good"}, r"samples\[1\]\.feedback_score must be a finite number"),
        ({"feedback_score": float("nan")}, r"samples\[1\]\.feedback_score must be a finite"),
        ({"feedback_score": True}, r"samples\[1\]\.feedback_score must be a finite"),
        ({"metadata": []}, r"samples\[1\]\.metadata must be an object or null, got \[\]"),
        ({"metadata": {"scorer": "nope"}}, r"samples\[1\]\.metadata\.scorer cannot be used"),
    ],
)
def test_an_unusable_sample_is_named_by_index_and_field(
    change: dict[str, Any], problem: str
) -> None:
    with pytest.raises(BundleInvalid, match=problem):
        read(GOOD, {"trace_id": "task-2", "query": "?", **change})


def test_all_problems_are_counted_and_the_first_are_shown() -> None:
    with pytest.raises(BundleInvalid, match=r"and 20 more") as caught:
        read(*({"trace_id": f"t{number}"} for number in range(30)))

    assert len(caught.value.facts["problems"]) == 30


@pytest.mark.parametrize("text", ["", "{", "null", "7", "[]", '{"samples": []}', '{"samples": {}}'])
def test_what_is_no_benchmark_is_refused(text: str) -> None:
    with pytest.raises(BundleInvalid, match=r"benchmark\.json"):
        read_benchmark(text)


@given(JSON)
def test_no_json_can_break_it(value: object) -> None:
    for whole in (value, {"samples": value}, {"samples": [value]}, {"samples": [GOOD, value]}):
        try:
            read_benchmark(json.dumps(whole))
        except BundleInvalid as refused:
            assert refused.message  # noqa: PT017 - a refusal is one of two good ends


def test_a_scorer_is_read_with_its_options() -> None:
    metadata = {"scorer": {"name": "numeric"}}
    benchmark = read({**GOOD, "reference_answer": "2", "metadata": metadata})

    scorer = benchmark.samples[0].scorer
    assert scorer is not None
    assert scorer.name == "numeric"


def test_what_is_written_reads_the_same() -> None:
    benchmark = read_benchmark((tau_home() / "benchmark.json").read_text())

    text = write_benchmark(benchmark)

    assert read_benchmark(text) == benchmark
    assert write_benchmark(read_benchmark(text)) == text
    assert len(benchmark.samples) == 50
