"""Scorers that compare texts: the same text, or a text that holds another.

Rule: what a person would call the same answer is the same answer. Unicode spelling, white space
and what models wrap around an answer (a code fence, quotes, bold type, a full stop) do not count,
on either side; letters' case counts where the scorer says so.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.core.scoring.verdict import RIGHT, Score, wrong
from worker.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Contains", "Exact"]

_FENCE = re.compile(r"\A```[^\n`]*\n(.*?)\n?```\Z", re.DOTALL)
#: What opens and closes an answer: quotes, code, bold type.
_WRAPPINGS = (
    *(
        ('"', '"'),
        ("'", "'"),
        ("`", "`"),
        ("\N{LEFT DOUBLE QUOTATION MARK}", "\N{RIGHT DOUBLE QUOTATION MARK}"),
        ("\N{LEFT SINGLE QUOTATION MARK}", "\N{RIGHT SINGLE QUOTATION MARK}"),
        ("«", "»"),
    ),
    *(("**", "**"), ("__", "__")),
)
#: What is wrapped more often is no answer; each one costs a copy of the text.
_MAX_WRAPPINGS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact:
    """The output is the reference."""

    #: Whether "Paris" and "paris" are the same.
    ignore_case: bool = False
    #: Whether line breaks and runs of blanks are one blank.
    ignore_whitespace: bool = True
    #: Whether code fences, quotes, bold type and a full stop around the answer count.
    keep_wrapping: bool = False
    #: Other answers that are as right as the reference.
    alternatives: tuple[str, ...] = ()

    def score(self, output: str, reference: str) -> Score:
        """Return full marks for the same text."""
        said = self._normal(output)
        if said in {self._normal(text) for text in (reference, *self.alternatives)}:
            return RIGHT
        return wrong("the answer is not the expected text" if said else "the answer is empty")

    def check(self, reference: str) -> None:
        """Refuse a reference that an empty answer would meet.

        Raises:
            BadInput: Nothing of it is left after normalising.
        """
        _refuse_empty(self._normal(text) for text in (reference, *self.alternatives))

    def _normal(self, text: str) -> str:
        text = unicodedata.normalize("NFC", text).strip()
        text = text if self.keep_wrapping else _unwrapped(text)
        text = " ".join(text.split()) if self.ignore_whitespace else text
        return text.casefold() if self.ignore_case else text


@dataclass(frozen=True, slots=True, kw_only=True)
class Contains:
    """The reference stands somewhere in the output."""

    ignore_case: bool = True
    #: Whether "cat" stands in "category".
    within_words: bool = False
    #: Other answers that are as right as the reference.
    alternatives: tuple[str, ...] = ()

    def score(self, output: str, reference: str) -> Score:
        """Return full marks where the output holds the reference or an alternative."""
        said = self._normal(output)
        if any(self._holds(said, self._normal(text)) for text in (reference, *self.alternatives)):
            return RIGHT
        return wrong(
            "the answer does not hold the expected text" if said else "the answer is empty"
        )

    def check(self, reference: str) -> None:
        """Refuse a reference that stands in every answer.

        Raises:
            BadInput: It is blank.
        """
        _refuse_empty(self._normal(text) for text in (reference, *self.alternatives))

    def _normal(self, text: str) -> str:
        text = " ".join(unicodedata.normalize("NFC", text).split())
        return text.casefold() if self.ignore_case else text

    def _holds(self, said: str, wanted: str) -> bool:
        if self.within_words:
            return wanted in said
        start = said.find(wanted)
        while start >= 0:
            end = start + len(wanted)
            if not (_joined(said, start) or _joined(said, end)):
                return True
            start = said.find(wanted, start + 1)
        return False


def _joined(text: str, at: int) -> bool:
    """Whether a word goes on across the position."""
    return 0 < at < len(text) and _in_word(text[at - 1]) and _in_word(text[at])


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _unwrapped(text: str) -> str:
    if fenced := _FENCE.match(text):
        text = fenced[1].strip()
    for _ in range(_MAX_WRAPPINGS):
        text = _without_one(text) or text
    return text


def _without_one(text: str) -> str:
    """Return the text without its outermost quotes, marks or full stop."""
    for opens, closes in _WRAPPINGS:
        if text.startswith(opens) and text.endswith(closes):
            inner = text[len(opens) : -len(closes)]
            # One more inside means that the outer two do not belong together: "a" or "b".
            if inner and opens not in inner and closes not in inner:
                return inner.strip()
    return text[:-1].rstrip() if text.endswith(".") and not text.endswith("..") else text


def _refuse_empty(texts: Iterable[str]) -> None:
    if not all(texts):
        raise BadInput("the reference (or an alternative) is blank: any answer would be right")
