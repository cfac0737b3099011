"""Scoring an output with the sample's own scorer, or leaving it to the judge.

Rule: an empty answer is a wrong answer, a fault is none; no reason given here holds the reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.core.scoring import score
from worker.core.values import RunOutcome

if TYPE_CHECKING:
    from worker.bundle.benchmark import Sample

__all__ = ["JUDGE", "Scored", "score_output"]

#: Scorer name of runs that a judge scores.
JUDGE = "judge"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What scoring said; `needs_judge` where it is for the judge to say."""

    score: float | None
    passed: bool | None
    scorer: str
    why: str
    needs_judge: bool = False


def score_output(sample: Sample, outcome: RunOutcome, content: str | None) -> Scored:
    """Return the score of an output: of an answer, whole or cut, or of an empty one."""
    scorer = sample.scorer
    name = scorer.name if scorer else JUDGE
    if content is None or outcome is RunOutcome.EMPTY:
        return Scored(score=0.0, passed=False, scorer=name, why="the answer is empty")
    if scorer is None:
        return Scored(score=None, passed=None, scorer=JUDGE, why="", needs_judge=True)
    scored = score(scorer.name, scorer.options, content, sample.reference_answer)
    return Scored(score=scored.value, passed=scored.passed, scorer=name, why=scored.why)
