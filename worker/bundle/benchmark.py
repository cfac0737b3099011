"""The benchmark: the tasks that a student is measured on.

Rule: a sample that cannot be run is refused before the session starts, by its index and field.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from worker.core.scoring import Scorer, read_scorer, validate_scorer
from worker.errors import BadInput, BundleInvalid
from worker.traces.cells import Json, read_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Benchmark", "Sample", "read_benchmark", "write_benchmark"]

#: Task ids are names; they stand in messages, tables and keys.
TASK_ID_CHARS_MAX = 200

#: Problems that one error names; the rest are counted.
_PROBLEMS_MAX = 10
#: How much of a wrong value an error shows.
_SHOWN_CHARS_MAX = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One task."""

    #: `trace_id` (or `task_id`) in the file.
    task_id: str
    query: str
    #: Empty where there is none. Never shown to a teacher unless the request allows it.
    reference_answer: str = ""
    agent: str = ""
    category: str = "chat"
    feedback_score: float | None = None
    metadata: Mapping[str, Json] = field(default_factory=dict[str, Json])
    #: What `metadata.scorer` names; None leaves it to the judge.
    scorer: Scorer | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """All tasks, in the file's order."""

    workflow_id: str
    samples: tuple[Sample, ...]
    _by_id: dict[str, Sample] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_id = {sample.task_id: sample for sample in self.samples}
        object.__setattr__(self, "_by_id", by_id)

    @property
    def task_ids(self) -> tuple[str, ...]:
        """The ids of all tasks, in the file's order."""
        return tuple(self._by_id)

    def get(self, task_id: str) -> Sample | None:
        """Return a task; None for an unknown id."""
        return self._by_id.get(task_id)


def read_benchmark(text: str, name: str = "benchmark.json") -> Benchmark:
    """Return the benchmark that the JSON text holds.

    Raises:
        BundleInvalid: It is no JSON, no benchmark, or some of its samples are unusable.
    """
    read = read_json(text.removeprefix("\ufeff"))
    if not read.parsed:
        raise BundleInvalid(f"{name} is not valid JSON: {_json_problem(text)}", file=name)
    whole = {"samples": read.value} if isinstance(read.value, list) else read.value
    rows = whole.get("samples") if isinstance(whole, dict) else None
    if not isinstance(whole, dict) or not isinstance(rows, list) or not rows:
        raise BundleInvalid(
            f'{name} must hold {{"workflow_id": …, "samples": [at least one sample]}}', file=name
        )
    problems = list(_problems(rows))
    if problems:
        more = (
            f" (and {len(problems) - _PROBLEMS_MAX} more)" if len(problems) > _PROBLEMS_MAX else ""
        )
        raise BundleInvalid(
            f"{name} has unusable samples: {'; '.join(problems[:_PROBLEMS_MAX])}{more}",
            file=name,
            problems=problems,
        )
    workflow_id = whole.get("workflow_id")
    return Benchmark(
        workflow_id=workflow_id if isinstance(workflow_id, str) else "",
        samples=tuple(_sample(row) for row in rows if isinstance(row, dict)),
    )


def write_benchmark(benchmark: Benchmark) -> str:
    """Return the benchmark as JSON text, the same for the same content."""
    samples = [
        {
            "trace_id": sample.task_id,
            "query": sample.query,
            "reference_answer": sample.reference_answer,
            "agent": sample.agent,
            "category": sample.category,
            "feedback_score": sample.feedback_score,
            "metadata": dict(sample.metadata),
        }
        for sample in benchmark.samples
    ]
    whole = {"workflow_id": benchmark.workflow_id, "samples": samples}
    return json.dumps(whole, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _sample(row: dict[str, Json]) -> Sample:
    metadata, score = row.get("metadata"), row.get("feedback_score")
    return Sample(
        task_id=_task_id(row),
        query=_text(row, "query"),
        reference_answer=_text(row, "reference_answer"),
        agent=_text(row, "agent"),
        category=_text(row, "category") or "chat",
        feedback_score=float(score) if isinstance(score, (int, float)) else None,
        metadata=metadata if isinstance(metadata, dict) else {},
        scorer=read_scorer(metadata) if isinstance(metadata, dict) else None,
    )


def _task_id(row: dict[str, Json]) -> str:
    return _text(row, "trace_id") or _text(row, "task_id")


def _text(row: dict[str, Json], key: str) -> str:
    value = row.get(key)
    return value if isinstance(value, str) else ""


def _problems(rows: list[Json]) -> Iterator[str]:
    seen: dict[str, int] = {}
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            yield f"samples[{index}] must be an object, got {_short(row)}"
            continue
        for name, problem in _field_problems(row):
            yield f"samples[{index}].{name} {problem}"
        task_id = _task_id(row)
        first = seen.setdefault(task_id, index)
        if task_id and first != index:
            yield f"samples[{index}].trace_id is {_short(task_id)}, as in samples[{first}]"


def _field_problems(row: dict[str, Json]) -> Iterator[tuple[str, str]]:
    task_id = _task_id(row)
    if not task_id:
        given = row.get("trace_id", row.get("task_id"))
        yield "trace_id", f"must be the task's id, a text that is not empty, got {_short(given)}"
    elif len(task_id) > TASK_ID_CHARS_MAX or not task_id.isprintable():
        yield "trace_id", f"must be at most 200 printable characters, got {_short(task_id)}"
    if not _text(row, "query").strip():
        yield "query", f"must be a text that is not empty, got {_short(row.get('query'))}"
    for name in ("reference_answer", "agent", "category"):
        if not isinstance(row.get(name), (str, type(None))):
            yield name, f"must be a text or null, got {_short(row.get(name))}"
    score = row.get("feedback_score")
    if isinstance(score, bool) or not isinstance(score, (int, float, type(None))):
        yield "feedback_score", f"must be a finite number or null, got {_short(score)}"
    metadata = row.get("metadata")
    if not isinstance(metadata, (dict, type(None))):
        yield "metadata", f"must be an object or null, got {_short(metadata)}"
    elif metadata:
        yield from _scorer_problems(metadata, _text(row, "reference_answer"))


def _scorer_problems(metadata: dict[str, Json], reference: str) -> Iterator[tuple[str, str]]:
    try:
        scorer = read_scorer(metadata)
        if scorer is not None:
            validate_scorer(scorer.name, scorer.options, reference)
    except BadInput as exc:
        yield "metadata.scorer", f"cannot be used: {exc.message}"


def _short(value: Json) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS_MAX else f"{text[:_SHOWN_CHARS_MAX]}…"


def _json_problem(text: str) -> str:
    try:
        json.loads(text)
    except (ValueError, RecursionError) as exc:
        return str(exc)[:200]
    return "it is nested too deeply"
