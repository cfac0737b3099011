r"""The numeric scorer: the number that an answer ends in is the reference's.

Rule: the final number counts, and a number that is announced as the answer comes before one that
merely stands last. In order: `\boxed{…}`, `#### …`, "answer: …" and the like, the last number of
all. Numbers are compared exactly, as fractions; what is not finite is no number.

`85%` is the number 85 with a unit: it is met by 85 %, by 0.85 and by 85, since tasks that ask for a
percentage are answered in all three ways.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from worker.core.scoring.verdict import RIGHT, Score, wrong
from worker.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Numeric"]

#: Longer answers are read from their end: the final number stands there.
_MAX_CHARS = 50_000
#: A number with more digits or a larger exponent is none: 1e999999999 would fill the memory.
_MAX_DIGITS = 400

_MINUS = "-\N{MINUS SIGN}\N{EN DASH}"
#: What stands between groups of three digits: a comma, an apostrophe, the spaces used in print.
_GROUPING = (
    ",'\N{RIGHT SINGLE QUOTATION MARK}\N{NO-BREAK SPACE}\N{THIN SPACE}\N{NARROW NO-BREAK SPACE}"
)
_TIMES = "x*\N{MULTIPLICATION SIGN}"
_NUMBER = re.compile(
    rf"""
    (?<![\w.])                                      # not inside a word or another number
    (?:[$€£]\s?)?
    (?P<sign>(?<![\w)])[{_MINUS}+](?=[\d.$€£∞i]))?  # "10-3" is no minus three, "- 3" is an item
    (?:[$€£]\s?)?
    (?:
        (?<!\d/)                                    # 3/4 and 1 1/2; no date, no "45 / 9"
        (?:(?P<whole>\d+)[ ])?(?P<over>\d+)/(?P<under>\d+)(?![\d/])
      | (?P<digits>(?:\d{{1,3}}(?:[{_GROUPING}]\d{{3}})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)
        (?:[eE](?P<exponent>[+-]?\d+)|\s?(?:[{_TIMES}]|\\times)\s?10\^\{{?(?P<power>[+-]?\d+)\}}?)?
      | (?P<endless>(?i:nan|inf|infinity)\b|∞)
    )
    (?P<percent>\s?(?:%|percent\b|per\ cent\b))?
    """,
    re.VERBOSE | re.ASCII,
)
_BOXED = re.compile(r"\\boxed\s*\{([^{}]*)\}")
#: What models and benchmarks write right before the number they mean.
_ANNOUNCED = re.compile(
    r"""
    (?:\#\#\#\#|\b(?:answer|result|solution|score)\b[\s*_]*(?:is|was|equals|:|=))
    [\s*_:=~≈(\[{"'`\\]*(?:(?:about|approximately|exactly|therefore|thus)\s+)?
    """,
    re.VERBOSE | re.IGNORECASE,
)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{(\d+)\}\s*\{(\d+)\}")
_ENGLISH_NUMERALS = str.maketrans(",.", ".,")


@dataclass(frozen=True, slots=True, kw_only=True)
class Numeric:
    """The output's final number is the reference's."""

    #: How far off it may be, in the reference's unit.
    tolerance: float = 0.0
    #: How far off it may be, as a part of the reference: 0.01 is one percent.
    relative_tolerance: float = 0.0
    #: Whether "1.234,5" is written for 1234.5, on both sides.
    decimal_comma: bool = False

    def score(self, output: str, reference: str) -> Score:
        """Return full marks where the final numbers agree."""
        said, wanted = self._final(output), self._final(reference)
        if said is None or wanted is None:
            return wrong("the answer ends in no finite number")
        if any(self._close(value, wanted.value) for value in said.in_unit_of(wanted)):
            return RIGHT
        return wrong("the answer's final number is not the expected one")

    def check(self, reference: str) -> None:
        """Refuse a reference without a number.

        Raises:
            BadInput: It ends in no finite number.
        """
        if self._final(reference) is None:
            raise BadInput("the reference holds no finite number to compare with")

    def _close(self, value: Fraction, wanted: Fraction) -> bool:
        part = abs(wanted) * _exact(self.relative_tolerance)
        return abs(value - wanted) <= max(_exact(self.tolerance), part)

    def _final(self, text: str) -> _Number | None:
        text = _plain(text[-_MAX_CHARS:])
        found = _final_number(text.translate(_ENGLISH_NUMERALS) if self.decimal_comma else text)
        return None if found is None else _read(found)


@dataclass(frozen=True, slots=True)
class _Number:
    value: Fraction
    percent: bool

    def in_unit_of(self, other: _Number) -> tuple[Fraction, ...]:
        """Return what the number may stand for beside `other`."""
        if self.percent == other.percent:
            return (self.value,)
        return (self.value, self.value / 100 if self.percent else self.value * 100)


def _final_number(text: str) -> re.Match[str] | None:
    """Return the number that the text means by its answer."""
    for boxed in reversed(list(_BOXED.finditer(text))):
        if inside := _last(_NUMBER.finditer(text, boxed.start(1), boxed.end(1))):
            return inside
    announced = (_NUMBER.match(text, marker.end()) for marker in _ANNOUNCED.finditer(text))
    return _last(number for number in announced if number) or _last(_NUMBER.finditer(text))


def _last(found: Iterator[re.Match[str]]) -> re.Match[str] | None:
    return next(iter(deque(found, maxlen=1)), None)


def _read(found: re.Match[str]) -> _Number | None:
    """Return the number's value, None for what is not finite."""
    magnitude = None if found["endless"] else _magnitude(found)
    if magnitude is None:
        return None
    negative = found["sign"] is not None and found["sign"] in _MINUS
    return _Number(-magnitude if negative else magnitude, found["percent"] is not None)


def _magnitude(found: re.Match[str]) -> Fraction | None:
    if len(found[0]) > _MAX_DIGITS:
        return None
    if found["under"] is not None:
        under = int(found["under"])
        whole = int(found["whole"] or 0)
        return whole + Fraction(int(found["over"]), under) if under else None
    exponent = int(found["exponent"] or found["power"] or 0)
    if abs(exponent) > _MAX_DIGITS:
        return None
    digits = re.sub(f"[{_GROUPING}]", "", found["digits"])
    return Fraction(digits) * Fraction(10) ** exponent


def _plain(text: str) -> str:
    """Return the text without the LaTeX that stands inside numbers."""
    return _FRACTION.sub(r"\1/\2", text.replace("\\%", "%").replace("{,}", ","))


def _exact(number: float) -> Fraction:
    """Return the decimal that was written: 0.1 is a tenth."""
    return Fraction(str(number))
