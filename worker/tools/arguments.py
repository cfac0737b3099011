"""A tool call's arguments, checked against the tool's schema.

Rule: what the model meant beyond doubt is accepted ("5" for 5, null for "not given"); anything
else comes back as an error that names the argument, what was given and what is allowed.
"""

from __future__ import annotations

import difflib
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from worker.tools.schemas import TOOLS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.tools.schemas import Schema

__all__ = ["Arguments", "BadArguments", "near", "validate_arguments"]

#: Values by name, of the types in the schema, with defaults filled in. What was neither given nor
#: has a default is absent.
Arguments: TypeAlias = dict[str, Any]

#: How much of a wrong value an error shows.
_SHOWN_CHARS_MAX = 80
_PROBLEMS_MAX = 5
#: `int` takes no longer text; no argument is meant to be so large.
_DIGITS_MAX = 30


@dataclass(frozen=True, slots=True)
class BadArguments:
    """Why a call cannot be made, in words that the model can act upon."""

    message: str


def validate_arguments(name: str, raw: object) -> Arguments | BadArguments:
    """Return the arguments of a call of the tool `name`, or what is wrong with them.

    Args:
        name: The tool, as called.
        raw: A JSON object, or its text. None and an empty text mean no arguments.
    """
    tool = TOOLS.get(name)
    if tool is None:
        return BadArguments(f"there is no tool {_show(name)}{near(name, TOOLS)}")
    try:
        given = _object(raw)
        return _check_object(given, tool.schema, "")
    except _WrongError as wrong:
        shown = "; ".join(wrong.problems[:_PROBLEMS_MAX])
        allowed = ", ".join(tool.properties) or "none"
        return BadArguments(f"{name} was not run: {shown}. Arguments: {allowed}")


def near(word: str, known: Mapping[str, Any] | list[str]) -> str:
    """Return a hint at known words that resemble this one, or nothing."""
    close = difflib.get_close_matches(word[:200], list(known), n=3)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


class _WrongError(Exception):
    """Arguments that do not fit; carries every problem, so that one repair is enough."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = problems


def _object(raw: object) -> dict[str, Any]:
    value = raw
    if isinstance(raw, (str, bytes)):
        if not raw.strip():
            return {}
        value = _parse(raw)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _WrongError(f"the arguments must be a JSON object, got {_show(value)}")
    return {str(key): item for key, item in cast("dict[Any, Any]", value).items()}


def _parse(raw: str | bytes) -> Any:  # noqa: ANN401 - any JSON value
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise _WrongError(f"the arguments are not valid JSON: {str(exc)[:200]}") from exc


def _check_object(given: dict[str, Any], schema: Schema, where: str) -> Arguments:
    known: Mapping[str, Schema] = schema["properties"]
    problems = [
        f"there is no argument {_show(where + name)}{near(name, known)}"
        for name in given
        if name not in known
    ]
    checked: Arguments = {}
    for name, inner in known.items():
        value = given.get(name)
        if value is None:
            if name in schema["required"]:
                problems.append(f"{where}{name} is required: {_wanted(inner)}")
            elif "default" in inner:
                checked[name] = inner["default"]
            continue
        try:
            checked[name] = _check(value, inner, where + name)
        except _WrongError as wrong:
            problems.extend(wrong.problems)
    if problems:
        raise _WrongError(*problems)
    return checked


def _check(value: Any, schema: Schema, where: str) -> Any:  # noqa: ANN401 - any JSON value
    match schema["type"]:
        case "string":
            found = _string(value, schema)
        case "integer":
            found = _integer(value, schema)
        case "number":
            found = _in_range(_real(value), schema)
        case "array":
            return _check_array(value, schema, where)
        case _:
            inner = _unpacked(value)
            if isinstance(inner, dict):
                return _check_object(cast("dict[str, Any]", inner), schema, f"{where}.")
            found = None
    if found is None:
        raise _WrongError(f"{where} must be {_wanted(schema)}, got {_show(value)}")
    return found


def _check_array(value: Any, schema: Schema, where: str) -> list[Any]:  # noqa: ANN401
    unpacked = _unpacked(value)
    if not isinstance(unpacked, list):
        raise _WrongError(f"{where} must be {_wanted(schema)}, got {_show(value)}")
    items = cast("list[Any]", unpacked)
    if not schema["minItems"] <= len(items) <= schema["maxItems"]:
        raise _WrongError(f"{where} must be {_wanted(schema)}, got {len(items)}")
    checked: list[Any] = []
    problems: list[str] = []
    for index, item in enumerate(items):
        try:
            checked.append(_check(item, schema["items"], f"{where}[{index}]"))
        except _WrongError as wrong:
            problems.extend(wrong.problems)
    if problems:
        raise _WrongError(*problems)
    return checked


def _unpacked(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return the list or object that a model has written as a text, or the value as it is."""
    if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _string(value: object, schema: Schema) -> str | None:
    # An id that looks like a number is easily sent as one.
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str):
        return None
    if "enum" in schema:
        word = text.strip().lower()
        return word if word in schema["enum"] else None
    return text if schema["minLength"] <= len(text) <= schema["maxLength"] else None


def _integer(value: object, schema: Schema) -> int | None:
    number = _number(value)
    if number is None or number != int(number):
        return None
    return _in_range(int(number), schema)


def _number(value: object) -> int | float | None:
    """Return the finite number that the value is or spells; None for anything else."""
    if isinstance(value, str):
        if len(value) > _DIGITS_MAX or "_" in value:
            return None
        try:
            value = float(value) if not value.strip().lstrip("+-").isdigit() else int(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if isinstance(value, int) or math.isfinite(value) else None


def _real(value: object) -> float | None:
    """Return a number as one that a database can be asked with; None for any other."""
    number = _number(value)
    try:
        return None if number is None else float(number)
    except OverflowError:
        return None


def _in_range(number: Any, schema: Schema) -> Any:  # noqa: ANN401 - an int or a float, or None
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    return number if number is not None and low <= number <= high else None


def _wanted(schema: Schema) -> str:
    if "enum" in schema:
        return f"one of {', '.join(map(repr, schema['enum']))}"
    match schema["type"]:
        case "string":
            return f"a text of {schema['minLength']} to {schema['maxLength']} characters"
        case "array":
            return f"a list of {schema['minItems']} to {schema['maxItems']} items"
        case "object":
            return f"an object with {', '.join(schema['properties'])}"
        case kind:
            article = "an integer" if kind == "integer" else "a finite number"
            if "minimum" not in schema:
                return article
            return f"{article} from {schema['minimum']} to {schema['maximum']}"


def _show(value: object) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        # Python prints no int of more than 4,300 digits.
        return f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= _SHOWN_CHARS_MAX else f"{text[:_SHOWN_CHARS_MAX]}…"
