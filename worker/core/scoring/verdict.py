"""What every scorer is asked and says."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RIGHT", "Score", "wrong"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How right an output is."""

    #: 0..1. Between the two only where a scorer knows parts (fields of a JSON object).
    value: float
    #: Whether it counts as a success: all of it is right.
    passed: bool
    #: Why, in words that give nothing of the reference away. They quote the output neither: a
    #: right output is the reference.
    why: str


def wrong(why: str, value: float = 0.0) -> Score:
    """Return the score of an output that is not right."""
    return Score(value=value, passed=False, why=why)


#: The score of an output that is right.
RIGHT = Score(value=1.0, passed=True, why="the answer agrees with the reference")
