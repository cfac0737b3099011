"""The JSON scorer: the value in an answer is the reference, or has the fields that count.

Rule: values are compared, not their spelling. The order of fields does not count, `1` is `1.0`, and
prose and code fences around the value are passed over. `NaN` and `Infinity` are no JSON.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NoReturn, cast

from worker.core.scoring.verdict import RIGHT, Score, wrong
from worker.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["JsonValue"]

#: Longer answers are read from their end.
_MAX_CHARS = 50_000
#: What is nested deeper is no value: comparing it would need as deep a stack.
_MAX_DEPTH = 64
#: Longer lists are sorted to be compared in any order, instead of item with item.
_MAX_PAIRED_ITEMS = 100
#: How many brackets in prose are tried as the beginning of a value.
_MAX_TRIES = 200

_FENCE = re.compile(r"```[^\n`]*\n(.*?)```", re.DOTALL)
_OPENING = re.compile(r"[\[{]")


class _Missing:
    """What a field that is not there is equal to: nothing."""


_MISSING = _Missing()


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonValue:
    """The JSON value in the output is the reference's."""

    #: Whether the output may hold more fields than the reference, at any depth.
    subset: bool = False
    #: Only these fields count, with dots between levels ("customer.name"); empty compares all.
    fields: tuple[str, ...] = ()
    #: Whether the order of lists' items is free.
    ignore_order: bool = False
    #: Whether texts' case and white space around them are free.
    ignore_case: bool = False
    #: How far off a number may be.
    tolerance: float = 0.0

    def score(self, output: str, reference: str) -> Score:
        """Return the part of the fields that agree; all of them pass."""
        said, wanted = _find(output), _parse(reference)
        if isinstance(said, _Missing):
            return wrong("the answer holds no JSON value")
        pairs = list(self._pairs(said, wanted))
        agree = sum(self._same(one, other) for one, other in pairs)
        if agree == len(pairs):
            return RIGHT
        return wrong("the answer's JSON value is not the expected one", agree / len(pairs))

    def check(self, reference: str) -> None:
        """Refuse a reference that is no JSON or lacks a field that counts.

        Raises:
            BadInput: It is so.
        """
        wanted = _parse(reference)
        if isinstance(wanted, _Missing):
            raise BadInput("the reference is not a JSON value")
        for path in self.fields:
            if isinstance(_at(wanted, path), _Missing):
                raise BadInput(f"the reference has no field {path!r}, which option 'fields' names")

    def _pairs(self, said: object, wanted: object) -> Iterator[tuple[object, object]]:
        """Return what has to agree: field by field where both are objects."""
        if self.fields:
            yield from ((_at(said, path), _at(wanted, path)) for path in self.fields)
        elif isinstance(said, dict) and isinstance(wanted, dict) and wanted:
            one, other = cast("dict[str, Any]", said), cast("dict[str, Any]", wanted)
            names = other.keys() if self.subset else one.keys() | other.keys()
            yield from ((one.get(name, _MISSING), other.get(name, _MISSING)) for name in names)
        else:
            yield said, wanted

    def _same(self, said: object, wanted: object) -> bool:
        match said, wanted:
            case (bool(), _) | (_, bool()):
                return said is wanted
            case ((int() | float()), (int() | float())):
                return abs(_exact(said) - _exact(wanted)) <= _exact(self.tolerance)
            case str(), str():
                return self._text(said) == self._text(wanted)
            case dict(), dict():
                return self._same_fields(
                    cast("dict[str, Any]", said), cast("dict[str, Any]", wanted)
                )
            case list(), list():
                return self._same_items(cast("list[Any]", said), cast("list[Any]", wanted))
            case _:
                return said is None and wanted is None

    def _same_fields(self, said: dict[str, Any], wanted: dict[str, Any]) -> bool:
        if not (wanted.keys() <= said.keys() if self.subset else wanted.keys() == said.keys()):
            return False
        return all(self._same(said[name], wanted[name]) for name in wanted)

    def _same_items(self, said: list[Any], wanted: list[Any]) -> bool:
        if len(said) != len(wanted):
            return False
        if self.ignore_order and len(said) > _MAX_PAIRED_ITEMS:
            said, wanted = sorted(said, key=_spelled), sorted(wanted, key=_spelled)
        elif self.ignore_order:
            return self._same_in_any_order(said, wanted)
        return all(map(self._same, said, wanted))

    def _same_in_any_order(self, said: list[Any], wanted: list[Any]) -> bool:
        left = list(said)
        for item in wanted:
            found = next((at for at, one in enumerate(left) if self._same(one, item)), None)
            if found is None:
                return False
            del left[found]
        return True

    def _text(self, text: str) -> str:
        return text.strip().casefold() if self.ignore_case else text


def _find(output: str) -> object:
    """Return the value that an answer means: fenced, the whole answer, or the last one in prose."""
    text = output[-_MAX_CHARS:]
    for fenced in reversed(_FENCE.findall(text)):
        value = _parse(fenced)
        if not isinstance(value, _Missing):
            return value
    whole = _parse(text)
    return _last_in_prose(text) if isinstance(whole, _Missing) else whole


def _last_in_prose(text: str) -> object:
    found: object = _MISSING
    at = 0
    for _ in range(_MAX_TRIES):
        opening = _OPENING.search(text, at)
        if opening is None:
            break
        try:
            value, at = _DECODER.raw_decode(text, opening.start())
        except (ValueError, RecursionError):
            at = opening.end()
        else:
            found = _shallow(value)
    return found


def _parse(text: str) -> object:
    try:
        return _shallow(_DECODER.decode(text.strip()))
    except (ValueError, RecursionError):
        return _MISSING


def _shallow(value: object) -> object:
    """Return a value that is not nested too deeply, else nothing."""
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return value
    return _MISSING


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return cast("dict[str, object]", value).values()
    return cast("list[object]", value) if isinstance(value, list) else ()


def _finite(text: str) -> float:
    number = float(text)
    if abs(number) == float("inf"):
        raise ValueError(text)
    return number


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)


def _at(value: object, path: str) -> object:
    for name in path.split("."):
        if not isinstance(value, dict):
            return _MISSING
        value = cast("dict[str, object]", value).get(name, _MISSING)
    return value


def _spelled(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _exact(number: float) -> Fraction:
    """Return the decimal that was written: 0.1 is a tenth."""
    return Fraction(str(number))
