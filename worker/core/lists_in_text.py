"""Finding a JSON list of objects in a text that a model wrote.

Rule: only what is JSON is read. Three slips that leave no doubt are forgiven: line breaks inside of
strings, and, with a remark, commas before a closing bracket and an end that is missing.
"""

from __future__ import annotations

import json
import re
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["Found", "find_list", "whole_json"]

#: Places where a list may begin that are tried, the last ones of the text. A diagnosis has a few;
#: without a bound, a hostile text takes time that grows with its square.
_MAX_PLACES = 100

#: The first line of a fence, up to the JSON value. Possessive, so that no run of blanks costs more
#: than its length; so are the strings below.
_FENCED = re.compile(r"(?:```|~~~)[ \t]*+[\w+-]*+\s*+(?=[\[{])")
_ARRAY_OF_OBJECTS = re.compile(r"\[\s*+(?=\{)")
_FENCE_END = re.compile(r"\s*+(?:```|~~~|\Z)")
_STRING = r'"(?:[^"\\]|\\.)*+"?+'
#: A string, or a comma that stands before a closing bracket: never valid outside of a string.
_TRAILING_COMMA = re.compile(rf"{_STRING}|,(?=\s*+[\]}}])", re.DOTALL)
_BRACKETS = re.compile(rf"{_STRING}|[\[\]{{}}]", re.DOTALL)
_BLANKS = re.compile(r"\s*+")

#: Not strict: a line break inside of a string is read as one.
_decoder = json.JSONDecoder(strict=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A list that stands in a text."""

    items: list[Any]
    #: What had to be forgiven; empty where nothing was.
    remark: str
    #: Where it ends in the text.
    end: int


def find_list(text: str, *, key: str, is_item: Callable[[object], bool]) -> Found | None:
    """Return the list that `text` ends with; None where it holds none.

    It is the last one in a fence, else the last one outside of any fence, else what is complete of
    one that the end of the text cuts off. An empty list counts only where it is all that a fence,
    or the whole text, holds, and where there is no other.

    Args:
        text: What the model wrote.
        key: The key of an object that may hold the list instead.
        is_item: Whether a value can only be meant as an item of the list.
    """
    search = _Search(text, key, is_item)
    fenced = list(search.walk(search.fenced_places(), search.list_at))
    full = [found for found in fenced if found.items]
    places = _last(match.start() for match in _ARRAY_OF_OBJECTS.finditer(text))
    full = full or list(search.walk(places, search.list_at))
    full = full or list(search.walk(places, search.cut_list_at))
    return next(reversed(full or fenced), None)


def whole_json(text: str) -> object:
    """Return `text` as JSON; None where it is something else."""
    decoded = _decoded(text, _after_blanks(text, 0))
    if decoded is None or _after_blanks(text, decoded[1]) != len(text):
        return None
    return decoded[0]


@dataclass(frozen=True, slots=True)
class _Search:
    text: str
    key: str
    is_item: Callable[[object], bool]

    def fenced_places(self) -> list[int]:
        """Return where a fence's value may begin; a text that is all JSON counts as a fence."""
        start = _after_blanks(self.text, 0)
        whole = [start] if self.text[start : start + 1] in {"[", "{"} else []
        return [*whole, *_last(match.end() for match in _FENCED.finditer(self.text))]

    def walk(self, places: Iterable[int], read: Callable[[int], Found | None]) -> Iterator[Found]:
        """Yield what `read` finds at the places, skipping those inside of something found."""
        end = 0
        for place in places:
            if place >= end and (found := read(place)) is not None:
                end = found.end
                yield found

    def list_at(self, start: int) -> Found | None:
        """Return the list at `start`: an array, or an object that holds it."""
        decoded = _decoded(self.text, start)
        if decoded is not None:
            return self._as_list(*decoded, remark="")
        decoded = _decoded(_without_trailing_commas(self.text[start:]), 0)
        if decoded is None:
            return None
        value, length = decoded
        remark = "commas before a closing bracket were ignored"
        found = self._as_list(value, start + length, remark=remark)
        return found if found is not None and found.items else None

    def _as_list(self, value: object, end: int, *, remark: str) -> Found | None:
        if isinstance(value, dict):
            value = cast("dict[str, Any]", value).get(self.key)
        if not isinstance(value, list):
            return None
        items = cast("list[Any]", value)
        is_all = not items and _FENCE_END.match(self.text, end) is not None
        if not is_all and not any(map(self.is_item, items)):
            return None
        return Found(items=items, remark=remark, end=end)

    def cut_list_at(self, start: int) -> Found | None:
        """Return the complete items of an array that begins at `start` and never ends."""
        text = _without_trailing_commas(self.text[start:])
        items: list[Any] = []
        place = 1
        while (decoded := _decoded(text, _after_blanks(text, place))) is not None:
            items.append(decoded[0])
            place = _after_blanks(text, decoded[1])
            if text[place : place + 1] != ",":
                break
            place += 1
        if not any(map(self.is_item, items)) or not _is_open(text, place):
            return None
        remark = f"the list breaks off: only what is complete was read, {len(items)} in number"
        return Found(items=items, remark=remark, end=len(self.text))


def _last(places: Iterable[int]) -> list[int]:
    return list(deque(places, maxlen=_MAX_PLACES))


def _is_open(text: str, start: int) -> bool:
    """Whether the text ends before the value that begins at `start` does."""
    depth = 0
    for match in _BRACKETS.finditer(text, start):
        if match[0] in {"[", "{"}:
            depth += 1
        elif match[0] in {"]", "}"}:
            depth -= 1
            if depth <= 0:
                return False
    return True


def _without_trailing_commas(text: str) -> str:
    """Return `text`, which begins outside of a string, with such commas as blanks: same length."""
    return _TRAILING_COMMA.sub(lambda match: " " if match[0] == "," else match[0], text)


def _after_blanks(text: str, start: int) -> int:
    match = _BLANKS.match(text, start)
    return match.end() if match else start


def _decoded(text: str, start: int) -> tuple[Any, int] | None:
    """Return the JSON value at `start` and its end; None where there is none."""
    try:
        return _decoder.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
