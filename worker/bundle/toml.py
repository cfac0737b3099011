"""TOML written from what was parsed, with credentials masked.

Rule: reading what is written gives the same values in the same order, but for the masks.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from worker.bundle.redaction import Redactor

__all__ = ["write_toml"]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def write_toml(tree: Mapping[str, object], redactor: Redactor) -> str:
    """Return the table as TOML."""
    return "\n".join([*_tables(tree, (), redactor), ""]).lstrip("\n")


def _tables(
    table: Mapping[str, object], path: tuple[str, ...], redactor: Redactor
) -> Iterator[str]:
    """Yield the lines of a table: its values first, as TOML wants it, then the tables in it."""
    for key, value in table.items():
        if not _inner_tables(value):
            yield f"{_key(redactor.text(key))} = {_value(value, redactor)}"
    for key, value in table.items():
        name = (*path, key)
        dotted = ".".join(_key(redactor.text(part)) for part in name)
        for item in _inner_tables(value):
            yield from ("", f"[[{dotted}]]" if isinstance(value, list) else f"[{dotted}]")
            yield from _tables(item, name, redactor)


def _inner_tables(value: object) -> list[dict[str, object]]:
    """Return the tables that get a heading of their own; none for a value on one line."""
    if isinstance(value, dict):
        return [cast("dict[str, object]", value)]
    items = cast("list[object]", value) if isinstance(value, list) else []
    tables = [cast("dict[str, object]", item) for item in items if isinstance(item, dict)]
    return tables if len(tables) == len(items) else []


def _value(value: object, redactor: Redactor) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return _quoted(redactor.text(value))
        case int() | float():
            return repr(value)
        case list():
            items = (_value(item, redactor) for item in cast("list[object]", value))
            return f"[{', '.join(items)}]"
        case dict():
            pairs = cast("dict[str, object]", value).items()
            inner = (f"{_key(redactor.text(k))} = {_value(v, redactor)}" for k, v in pairs)
            return f"{{{', '.join(inner)}}}"
        case _:
            # Dates and times are written as TOML writes them, with a T between them.
            return str(value).replace(" ", "T")


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _quoted(key)


def _quoted(text: str) -> str:
    # JSON's strings are TOML's, but for the one control character that JSON leaves as it is.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
