"""Reading what somebody else's objects hold.

Rule: nothing here raises, whatever the object is. What can be called is a method, or a stand-in that
answers to every name; it is never a value.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import numbers
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from decimal import Decimal
from enum import Enum
from itertools import islice
from typing import Any, cast

from worker.traces.cells import Json, decode, utf8

__all__ = ["attribute", "items_of", "json_text", "number", "plain", "text", "whole"]

#: Deeper values are kept as the text that Python shows of them.
_DEPTH_MAX = 30
#: SQLite's whole numbers.
_WHOLE_MAX = 2**63 - 1


def attribute(thing: object, name: str, default: Any = None) -> Any:  # noqa: ANN401 - theirs
    """Return what an object, or a mapping, has under `name`; else the default."""
    try:
        if isinstance(thing, Mapping):
            found = cast("Mapping[str, Any]", thing).get(name, default)
        else:
            found = getattr(thing, name, default)
    except Exception:  # noqa: BLE001 - a property of theirs may raise anything
        return default
    return default if callable(found) else found


def items_of(value: object, limit: int) -> list[Any]:
    """Return the items of a list, a generator or a mapping's values, at most `limit` of them.

    Raises:
        Exception: Whatever an iterator of theirs raises.
    """
    if isinstance(value, Mapping):
        value = cast("Mapping[Any, Any]", value).values()
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        return []
    return list(islice(cast("Iterable[Any]", value), limit))


def text(value: object) -> str | None:
    """Return a value as text that can be written as UTF-8; None for none."""
    match value:
        case None:
            return None
        case Enum():
            return text(cast("object", value.value))
        case str():
            return utf8(str(value))
        case bytes():
            return decode(value)
        case dict() | list() | tuple():
            return json_text(cast("object", value))
        case _:
            return None if callable(value) else utf8(_shown(value))


def number(value: object) -> float | None:
    """Return a value as a finite number that SQLite can hold; None for everything else."""
    if isinstance(value, dt.datetime):
        return value.timestamp()
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _WHOLE_MAX:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, (numbers.Real, Decimal)):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def whole(value: object) -> int:
    """Return a value as a count; 0 for everything that is none."""
    found = number(value)
    return min(max(int(found), 0), _WHOLE_MAX) if found is not None else 0


def plain(value: object) -> Json:
    """Return a value as JSON can hold it: objects by their fields, the rest as text."""
    return _plain(value, ())


def json_text(value: object) -> str:
    """Return a value as JSON text."""
    try:
        written = json.dumps(value, ensure_ascii=False, allow_nan=False)
        written.encode()
    except (TypeError, ValueError, RecursionError):
        return json.dumps(plain(value), ensure_ascii=False, allow_nan=False)
    return written


def _plain(value: object, above: tuple[int, ...]) -> Json:
    match value:
        case None | bool():
            return value
        case Enum():
            return _plain(cast("object", value.value), above)
        case int() | float():
            return number(value)
        case str():
            return utf8(str(value))
        case _ if id(value) in above or len(above) >= _DEPTH_MAX:
            return utf8(_shown(type(value)))
        case _:
            return _plain_whole(value, (*above, id(value)))


def _plain_whole(value: object, above: tuple[int, ...]) -> Json:
    """Return something that has parts, or is of a type that JSON does not know."""
    match value:
        case Mapping():
            pairs = cast("Mapping[object, object]", value).items()
            return {text(key) or "": _plain(item, above) for key, item in pairs}
        case dt.date():
            return value.isoformat()
        case list() | tuple() | set() | frozenset():
            return [_plain(item, above) for item in cast("Iterable[object]", value)]
        case _ if is_dataclass(value) and not isinstance(value, type):
            return {one.name: _plain(attribute(value, one.name), above) for one in fields(value)}
        case _:
            found = number(value)
            return text(value) if found is None else found


def _shown(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - their `__str__`
        return f"<{type(value).__name__}>"
