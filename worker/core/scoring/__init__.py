"""Deterministic scorers: whether an output is right, by rule and not by opinion.

Rule: the same output and reference get the same score everywhere and for ever. The reason names
neither the reference nor a part of it, so it may be shown to a teacher.

A sample names its scorer in `metadata.scorer`, as a text or as `{"name": …, option: …}`, with more
options in `metadata.scorer_options`:

* `exact`: the same text, but for white space and wrapping
* `contains`: the reference stands in the output
* `numeric`: the output's final number is the reference's
* `regex`: the output matches the pattern
* `json`: the JSON value in the output is the reference, or has its fields
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, cast

from worker.core.scoring.numeric import Numeric
from worker.core.scoring.pattern import Regex
from worker.core.scoring.structure import JsonValue
from worker.core.scoring.text import Contains, Exact
from worker.core.scoring.verdict import Score
from worker.errors import BadInput

__all__ = ["SCORERS", "Score", "Scorer", "read_scorer", "score", "validate_scorer"]

_Kind = Exact | Contains | Numeric | Regex | JsonValue

#: Each one's options are its fields.
SCORERS: Mapping[str, type[_Kind]] = {
    "exact": Exact,
    "contains": Contains,
    "numeric": Numeric,
    "regex": Regex,
    "json": JsonValue,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """A scorer as a sample names it. Not yet checked: see `validate_scorer`."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


def read_scorer(metadata: Mapping[str, Any]) -> Scorer | None:
    """Return the scorer that a sample's metadata names, None where it names none.

    Raises:
        BadInput: `scorer` is neither a text nor an object with a name, or `scorer_options` is no
            object.
    """
    named: object = metadata.get("scorer")
    if named is None:
        return None
    options = _options(metadata.get("scorer_options"), "scorer_options")
    if isinstance(named, str):
        return Scorer(name=named, options=options)
    whole = _options(named, "scorer")
    name = whole.get("name")
    if not isinstance(name, str):
        raise BadInput(f"scorer must have a name, one of {_known()}; it has {name!r}")
    own = {key: value for key, value in whole.items() if key != "name"}
    return Scorer(name=name, options={**options, **own})


def score(name: str, options: Mapping[str, Any], output: str, reference: str) -> Score:
    """Return how right an output is.

    Raises:
        BadInput: As `validate_scorer`.
    """
    scorer = _scorer(name, options)
    scorer.check(reference)
    return scorer.score(output, reference)


def validate_scorer(name: str, options: Mapping[str, Any], reference: str) -> None:
    """Return where outputs can be scored so.

    Raises:
        BadInput: There is no such scorer or option, an option has a wrong value, or the reference
            is nothing that this scorer can compare with. The message does not quote the reference.
    """
    _scorer(name, options).check(reference)


def _scorer(name: str, options: Mapping[str, Any]) -> _Kind:
    kind = SCORERS.get(name)
    if kind is None:
        raise BadInput(f"there is no scorer {name!r}; known are {_known()}", scorer=name)
    known = {option.name: option for option in fields(kind)}
    for option, value in options.items():
        if option not in known:
            raise BadInput(
                f"scorer {name!r} has no option {option!r}; it has {', '.join(sorted(known))}",
                scorer=name,
                option=option,
            )
        if not _fits(value, str(known[option].type)):
            raise BadInput(
                f"option {option!r} of scorer {name!r} must be {_NAMES[str(known[option].type)]}, "
                f"got {value!r}",
                scorer=name,
                option=option,
            )
    return kind(**{option: _frozen(value) for option, value in options.items()})


#: What an option may be, by the type of its field.
_NAMES = {
    "bool": "true or false",
    "float": "a number from 0 up",
    "str": "a text",
    "tuple[str, ...]": "a list of texts",
}


def _fits(value: object, kind: str) -> bool:
    match kind:
        case "bool":
            return isinstance(value, bool)
        case "float":
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            return is_number and 0 <= cast("float", value) < float("inf")
        case "str":
            return isinstance(value, str)
        case _:
            texts = cast("list[object]", value) if isinstance(value, (list, tuple)) else [None]
            return all(isinstance(text, str) for text in texts)


def _frozen(value: object) -> Any:  # noqa: ANN401 - it fits its field, as `_fits` found
    return tuple(cast("list[str]", value)) if isinstance(value, list) else value


def _options(value: object, name: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise BadInput(f"{name} must be an object, got {value!r}")
    return dict(cast("Mapping[str, Any]", value))


def _known() -> str:
    return ", ".join(SCORERS)
