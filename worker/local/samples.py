"""The reference's benchmark samples as rows of a benchmark of ours.

Rule: whatever the reference would run is run. What cannot be a task is left out with a remark, never
an error: the traces can be explored without it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from worker.bundle.benchmark import TASK_ID_CHARS_MAX
from worker.core.scoring import read_scorer, validate_scorer
from worker.errors import BadInput
from worker.local.objects import attribute, items_of, number, plain, text

if TYPE_CHECKING:
    from worker.traces.cells import Json

__all__ = ["read_samples"]

#: More samples than any benchmark has; the reference lists 50 at a time.
SAMPLES_MAX = 100_000

_NOT_A_NAME = "{} tasks have no id of at most 200 printable characters: named by their place"
_NOT_A_TASK = "{} tasks have no query: left out"
_TWICE = "{} tasks have the id of an earlier one: left out"
_NO_SCORER = "{} tasks name a scorer that cannot be used: left to the judge"


def read_samples(samples: object) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the samples as rows of `benchmark.json`, and what had to be done to them."""
    rows: dict[str, dict[str, Any]] = {}
    odd: Counter[str] = Counter()
    for place, sample in enumerate(items_of(samples, SAMPLES_MAX), start=1):
        row = _row(sample, place, odd)
        if not row["query"].strip():
            odd[_NOT_A_TASK] += 1
        elif row["trace_id"] in rows:
            odd[_TWICE] += 1
        else:
            rows[row["trace_id"]] = row
    return list(rows.values()), [what.format(count) for what, count in odd.items()]


def _row(sample: object, place: int, odd: Counter[str]) -> dict[str, Any]:
    reference = text(attribute(sample, "reference_answer")) or ""
    return {
        "trace_id": _task_id(sample, place, odd),
        "query": text(attribute(sample, "query")) or "",
        "reference_answer": reference,
        "agent": text(attribute(sample, "agent")) or "",
        "category": text(attribute(sample, "category")) or "chat",
        "feedback_score": number(attribute(sample, "feedback_score")),
        "metadata": _metadata(sample, reference, odd),
    }


def _task_id(sample: object, place: int, odd: Counter[str]) -> str:
    given = (text(attribute(sample, "trace_id")) or "").strip()
    if given and len(given) <= TASK_ID_CHARS_MAX and given.isprintable():
        return given
    odd[_NOT_A_NAME] += 1
    return f"task-{place}"


def _metadata(sample: object, reference: str, odd: Counter[str]) -> dict[str, Json]:
    """Return a sample's metadata; a scorer in it that is none of ours says nothing to us."""
    metadata = plain(attribute(sample, "metadata"))
    if not isinstance(metadata, dict):
        return {}
    try:
        scorer = read_scorer(metadata)
        if scorer is not None:
            validate_scorer(scorer.name, scorer.options, reference)
    except BadInput:
        odd[_NO_SCORER] += 1
        return {key: value for key, value in metadata.items() if key != "scorer"}
    return metadata
