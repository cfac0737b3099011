"""The regex scorer: the output matches a pattern.

Rule: matching ends in bounded time, whatever the pattern and the output (see `linear_regex`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from worker.core.scoring.linear_regex import LinearRegex, UnsupportedPattern
from worker.core.scoring.verdict import RIGHT, Score, wrong
from worker.errors import BadInput

__all__ = ["Regex"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Regex:
    """The output matches the pattern: that of the options, else the reference."""

    #: Empty takes the reference as the pattern. Otherwise the reference is an example of an answer.
    pattern: str = ""
    #: Whether the whole output must match, not a part of it.
    whole: bool = False
    ignore_case: bool = False
    #: Whether `^` and `$` match at each line.
    multiline: bool = False
    #: Whether `.` matches line breaks.
    dot_all: bool = False

    def score(self, output: str, reference: str) -> Score:
        """Return full marks for a match. White space around the output does not count."""
        regex = self._compiled(reference)
        said = output.strip()
        if regex.matches(said, whole=self.whole):
            return RIGHT
        if len(said) > regex.max_text_chars:
            return wrong("the part of the answer that was looked at does not match the pattern")
        return wrong("the answer does not match the pattern")

    def check(self, reference: str) -> None:
        """Refuse a pattern that cannot be used or says nothing.

        Raises:
            BadInput: It cannot be compiled, an empty answer matches it, or the reference does not.
        """
        regex = self._compiled(reference)
        if regex.matches("", whole=self.whole):
            raise BadInput("the pattern matches an empty answer: any answer would be right")
        if self.pattern and reference and not regex.matches(reference.strip(), whole=self.whole):
            raise BadInput("the reference itself does not match option 'pattern'")

    def _compiled(self, reference: str) -> LinearRegex:
        flags = {re.IGNORECASE: self.ignore_case, re.MULTILINE: self.multiline}
        wanted = sum(flag for flag, on in {**flags, re.DOTALL: self.dot_all}.items() if on)
        try:
            return _compiled(self.pattern or reference, int(wanted))
        except UnsupportedPattern as exc:
            raise BadInput(f"the pattern cannot be used: {exc}") from None


@lru_cache(maxsize=256)
def _compiled(pattern: str, flags: int) -> LinearRegex:
    return LinearRegex.compile(pattern, flags)
