"""One cell of a user's database, read whatever it holds.

Rule: no cell raises. What cannot be read as it was meant is kept as text, and marked.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Json", "JsonCell", "compact", "decode", "read_json", "read_number", "read_text", "utf8"]

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

#: Python refuses to read or print an int of more than 4,300 digits; nobody means one that long.
_INT_DIGITS_MAX = 300

#: Deeper values are kept as text: whoever walks them would run out of stack (Python's limit is
#: 1,000 frames), and nobody can read them.
_DEPTH_MAX = 32


@dataclass(frozen=True, slots=True)
class JsonCell:
    """A cell that should hold JSON."""

    #: What it holds; the raw text where it does not parse.
    value: Json
    parsed: bool


def decode(raw: bytes) -> str:
    """Return the text of the bytes, with U+FFFD for what is not UTF-8."""
    return raw.decode("utf-8", "replace")


def utf8(text: str) -> str:
    """Return the text with U+FFFD for lone surrogates, so that it can be sent as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def read_text(cell: object) -> str:
    """Return the cell as text; empty for NULL."""
    match cell:
        case None:
            return ""
        case str():
            return cell
        case bytes():
            return decode(cell)
        case _:
            return str(cell)


def read_number(cell: object) -> float | None:
    """Return the cell as a finite number; None for NULL and for whatever is not a number."""
    if not isinstance(cell, (int, float, str)):
        return None
    try:
        number = float(cell)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def read_json(cell: object, *, empty: Json = None) -> JsonCell:
    """Return what the cell's JSON says; `empty` for NULL and for an empty text."""
    if isinstance(cell, (int, float)):
        return JsonCell(cell if math.isfinite(cell) else str(cell), parsed=True)
    text = read_text(cell)
    if not text.strip():
        return JsonCell(empty, parsed=True)
    try:
        value: Json = json.loads(
            text, parse_constant=str, parse_float=_read_float, parse_int=_read_int
        )
    except (ValueError, RecursionError):
        return JsonCell(text, parsed=False)
    if text.count("[") + text.count("{") > _DEPTH_MAX and _deeper(value, _DEPTH_MAX):
        return JsonCell(text, parsed=False)
    # Only an escape (\\ud83d) can bring a surrogate in, and json joins the pairs itself.
    escaped = "\\ud" in text or "\\uD" in text
    return JsonCell(_clean(value) if escaped else value, parsed=True)


def compact(value: Json) -> str:
    """Return the value as JSON text on one line; a text as it is."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _read_float(digits: str) -> float | str:
    number = float(digits)
    return number if math.isfinite(number) else digits


def _read_int(digits: str) -> int | str:
    return int(digits) if len(digits) <= _INT_DIGITS_MAX else digits


def _deeper(value: Json, levels: int) -> bool:
    match value:
        case list():
            return levels == 0 or any(_deeper(item, levels - 1) for item in value)
        case dict():
            return levels == 0 or any(_deeper(item, levels - 1) for item in value.values())
        case _:
            return False


def _clean(value: Json) -> Json:
    match value:
        case str():
            return utf8(value)
        case list():
            return [_clean(item) for item in value]
        case dict():
            return {utf8(key): _clean(item) for key, item in value.items()}
        case _:
            return value
