"""A home's `config.toml` without its credentials.

Rule: what is shown is written anew from what was parsed, so no spelling of TOML can smuggle a
value through; comments, where people keep old passwords, are dropped.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import cast

from worker.bundle.names import Kind, is_placeholder, kind_of
from worker.bundle.redaction import MASK, Redactor
from worker.bundle.toml import write_toml

__all__ = ["RedactedConfig", "redact_config"]

#: `<word> key` with these words names a column, a shortcut or something that everybody may know.
_PLAIN_KEYS = frozenset(("public", "primary", "sort", "partition", "cache", "foreign", "group"))

#: A run of letters and digits that is at least this long, and mixed, is not a word.
_RANDOM_RUN = re.compile(
    r"(?=[A-Za-z0-9]*[a-z])(?=[A-Za-z0-9]*[A-Z])(?=[A-Za-z0-9]*[0-9])[A-Za-z0-9]{16}"
)
#: What stands under a name that ends in `key` is a name itself where it is shorter.
_KEY_CHARS_MIN = 8

_HARMLESS_LINE = re.compile(
    r"\s*(?:\[{1,2}[\w.\- ]+\]{1,2}|[\w.\-]+\s*=\s*(?:true|false|[+-]?\d+(?:\.\d+)?))\s*"
)
_QUOTED = re.compile(r"[\"']([^\"']{4,})[\"']")


@dataclass(frozen=True, slots=True)
class RedactedConfig:
    """A configuration that may be shown, and what it kept to itself."""

    text: str
    #: The credentials, to be masked wherever else they stand.
    secrets: frozenset[str]
    #: What is wrong with the file; empty where nothing is.
    remark: str = ""


def redact_config(text: str) -> RedactedConfig:
    """Return the configuration with every credential masked."""
    try:
        tree: dict[str, object] = tomllib.loads(text)
        found = _Credentials()
        masked = found.mask(tree, Kind.PLAIN)
    except (ValueError, RecursionError) as exc:
        return _redact_lines(text, str(exc))
    written = write_toml(cast("dict[str, object]", masked), Redactor(found.values))
    return RedactedConfig(written, frozenset(found.values))


def _redact_lines(text: str, problem: str) -> RedactedConfig:
    """Keep of a file that is no TOML only what cannot hold a credential."""
    lines = text.splitlines()
    kept = [line for line in lines if not line.strip() or _HARMLESS_LINE.fullmatch(line)]
    secrets = frozenset(value for line in lines for value in _line_secrets(line))
    redactor = Redactor(secrets)
    remark = redactor.text(
        f"config.toml is not valid TOML ({problem}); "
        f"{len(lines) - len(kept)} of its {len(lines)} lines are not shown"
    )
    return RedactedConfig(redactor.text("\n".join([f"# {remark}", *kept, ""])), secrets, remark)


def _line_secrets(line: str) -> set[str]:
    """Return the credentials of one line, which may be TOML even where the file is not."""
    found = _Credentials()
    try:
        found.mask(tomllib.loads(line), Kind.PLAIN)
    except (ValueError, RecursionError):
        name, _, value = line.partition("=")
        if kind_of(name) is not Kind.PLAIN:
            found.values.update(_QUOTED.findall(value), [value.strip().strip("\"'")])
    return {value for value in found.values if not is_placeholder(value)}


class _Credentials:
    """Walks a configuration, masks its credentials and remembers them."""

    def __init__(self) -> None:
        self.values: set[str] = set()

    def mask(self, value: object, kind: Kind, name: str = "") -> object:
        match value:
            case dict():
                return self._table(cast("dict[str, object]", value), kind)
            case list():
                return [self.mask(item, kind, name) for item in cast("list[object]", value)]
            case str():
                return self._text(value) if _opens(value, kind, name) else value
            case int() | float() if kind in (Kind.SECRET, Kind.SECRETS) and value not in (0, 1):
                return self._text(str(value))
            case _:
                return value

    def _table(self, table: dict[str, object], kind: Kind) -> dict[str, object]:
        # `[password]` is as telling about what stands below as `[credentials]`.
        inherited = kind if kind in (Kind.SECRET, Kind.SECRETS) else None
        return {key: self.mask(item, inherited or kind_of(key), key) for key, item in table.items()}

    def _text(self, value: str) -> str:
        if not is_placeholder(value):
            self.values.add(value)
        return MASK


def _opens(value: str, kind: Kind, name: str) -> bool:
    if kind is not Kind.PLAIN:
        return bool(value)
    words = re.findall(r"[a-z]+", name.lower())
    keyed = words[-1:] in (["key"], ["keys"]) and _PLAIN_KEYS.isdisjoint(words)
    hooked = "webhook" in words or "dsn" in words
    random = _RANDOM_RUN.search(value) is not None and " " not in value
    return (keyed and len(value) >= _KEY_CHARS_MIN) or hooked or random
