"""Credentials, found by their name, by their shape or by their value, and masked.

Rule: when in doubt about a text under a telling name, mask it; never touch a number that counts
something (`max_tokens = 30`). Masking twice changes nothing more.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from worker.bundle.names import Kind, is_placeholder, kind_of
from worker.traces.cells import Json, compact, read_json

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["MASK", "VALUE_CHARS_MIN", "Redactor"]

MASK = "[redacted]"

#: Shorter values of a configuration are masked where they stand, but not looked for elsewhere:
#: every text holds an "ab".
VALUE_CHARS_MIN = 4

#: JSON in a string in JSON is searched by name this deep; by shape and value, at any depth.
_UNFOLD_MAX = 2

#: Masking may bring a new credential to light (`a@b` in `user:a@b@host`); two rounds do in practice.
_ROUNDS_MAX = 5


def _shape(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.DOTALL)


#: Where a word may begin: also after an escape of JSON or a URL, which ends in a letter or digit.
_START = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrtbf])|(?<=\\u[0-9A-Fa-f]{4})|(?<=%[0-9A-Fa-f]{2}))"

#: The same, and not within a longer word with dashes: what follows is searched for to its end.
_APART = _START.replace("A-Za-z0-9])|", r"\w-])|", 1)

#: What must stand in a text for the pattern to be worth trying -> the pattern. Group `keep`, where
#: there is one, stays.
_SHAPES: tuple[tuple[tuple[str, ...], re.Pattern[str]], ...] = (
    (("-----BEGIN",), _shape(r"-----BEGIN [A-Z0-9 ]+-----.*?(?:-----END [A-Z0-9 ]+-----|\Z)")),
    (
        ("://",),
        _shape(r"(?P<keep>[A-Za-z][A-Za-z0-9+.-]{0,20}://)(?:[^\s/\"'<>@:\\]*:[^\s/\"'<>\\]*|[^\s/\"'<>@:\\]{20,})(?=@)"),
    ),
    (
        ("hooks.slack.com/", "/api/webhooks/"),
        _shape(r"(?P<keep>hooks\.slack\.com/|/api/webhooks/)[\w/-]{8,}"),
    ),
    (
        ("AKIA", "ASIA", "AGPA", "AIDA", "AROA", "ANPA", "ABIA", "ACCA"),
        _shape(r"A(?:KIA|SIA|GPA|IDA|ROA|NPA|BIA|CCA)[A-Z0-9]{12,}"),
    ),
    (("sk-",), _shape(_START + r"sk-(?=[A-Za-z_-]{0,60}[0-9])[A-Za-z0-9_-]{12,}")),
    (
        ("sk_", "rk_", "pk_", "gh", "hf_", "gsk_", "npm_", "r8_", "shp", "dop_v1_", "pypi-"),
        _shape(
            r"(?:(?:[srp]k_(?:live|test)|gh[pousr]|github_pat|hf|gsk|npm|r8"
            r"|shp(?:at|ca|pa|ss)|dop_v1)_|pypi-)[A-Za-z0-9_-]{12,}"
        ),
    ),
    (
        ("ookie", "OOKIE", "uthorization", "UTHORIZATION"),
        _shape(r"(?P<keep>(?i:cookie|authorization)\s{0,3}:\s{0,3})[^\s\"'\\][^\n\"'\\]*"),
    ),
    (("xox", "xapp-"), _shape(r"(?:xox[a-z]|xapp)-[A-Za-z0-9-]{6,}")),
    (("glpat-", "AIza", "SG.", "tvly-", "xai-"), _shape(
        r"(?:glpat-|AIza|SG\.|tvly-|xai-)[A-Za-z0-9_.-]{16,}"
    )),
    (("eyJ",), _shape(_APART + r"eyJ[\w-]{6,}\.[\w-]{6,}(?:\.[\w-]*)?")),
    (
        ("earer", "EARER"),
        _shape(_START + r"(?P<keep>[Bb](?:earer|EARER)\s+)(?:(?=[A-Za-z._~+/=-]{0,60}[0-9])[\w.~+/=-]{8,}|[\w.~+/=-]{20,})"),
    ),
    (
        ("asic", "ASIC"),
        _shape(_START + r"(?P<keep>[Bb](?:asic|ASIC)\s+)(?:[A-Za-z0-9+/]{8,}={1,2}|(?=[A-Za-z+/]{0,60}[0-9])[A-Za-z0-9+/]{12,})"),
    ),
)  # fmt: skip

#: Nearly all texts hold none of these: one search instead of forty.
_SHAPE_HINT = re.compile("|".join(re.escape(hint) for hints, _ in _SHAPES for hint in hints))

#: AWS secret keys have no mark of their own: exactly forty characters, neither words nor a hash.
_FORTY_CHARS = 40
_FORTY = re.compile(r"(?:(?<![\w/+=-])|(?<=\\[nrtbf]))[A-Za-z0-9/+]{40}(?![\w/+=-])")

#: The part of a name that makes it worth asking `kind_of`; every name that it calls a credential
#: holds one of these.
_NAME_HINTS = (
    *("passw", "passphrase", "passcode", "pwd", "secret", "credential", "authorization", "cookie"),
    *("key", "token", "pin", "otp"),
)
_NAMED = re.compile(
    rf"(?P<core>{'|'.join(_NAME_HINTS)})(?P<tail>[\w.-]{{0,40}})"
    r"(?:(?P<sep>\\*[\"']?\s{0,3}(?:=>|:=|=|:)\s{0,3})|(?P<is>\s+is:?\s+)|(?P<flag>\s+))"
    r"(?:(?P<quote>\\*[\"'])(?P<quoted>.{1,2000}?)(?<!\\)(?P=quote)"
    r"|(?P<bare>(?:(?:bearer|basic|digest|token)\s+)?[^\s\"'\\,;&{}\[\]()<>]{3,}))",
    re.IGNORECASE | re.DOTALL,
)
_NAME_BEFORE = re.compile(r"[\w.-]*\Z")
_NAME_CHARS_MAX = 60

#: A shorter text under `token` is a word, as in a model's log-probabilities.
_TOKEN_CHARS_MIN = 8


class Redactor:
    """Masks credentials in texts and JSON values. Immutable, so any thread may use it."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        """Take the values that are known to be credentials, to be masked wherever they stand."""
        known = {v for v in values if len(v) >= VALUE_CHARS_MIN and v not in MASK}
        written = {form for value in known for form in _forms(value)}
        # The longest first: one credential may be a part of another.
        self._values = tuple(sorted(written, key=lambda form: (-len(form), form)))

    def text(self, text: str) -> str:
        """Return the text with every credential masked."""
        for _ in range(_ROUNDS_MAX):
            # What is masked already is left alone, so that no value can match inside a mask.
            masked = MASK.join(map(self._once, text.split(MASK)))
            if masked == text:
                break
            text = masked
        return text

    def known(self, text: str) -> str:
        """Return the text with only the values masked that are known to be credentials."""
        return MASK.join(map(self._without_values, text.split(MASK)))

    def known_value(self, value: Json) -> Json:
        """Return the JSON value with only the values masked that are known to be credentials."""
        match value:
            case str():
                return self.known(value)
            case list():
                return [self.known_value(item) for item in value]
            case dict():
                return {self.known(key): self.known_value(item) for key, item in value.items()}
            case _:
                return MASK if str(value) in self._values else value

    def value(self, value: Json, name: str = "") -> Json:
        """Return the JSON value, which stands under `name`, with every credential masked."""
        return self._value(value, kind_of(name), _UNFOLD_MAX)

    def cell(self, raw: str) -> str:
        """Return the text of a JSON cell, the same one where it holds no credential."""
        if self.text(raw) == raw and not _hinted(raw.lower()):
            return raw
        read = read_json(raw)
        if read.parsed:
            masked = self.value(read.value)
            raw = raw if masked == read.value else json.dumps(masked, ensure_ascii=False)
        # A value that JSON hides, as the first of two equal keys, is still in the text.
        return self.text(raw)

    def _once(self, text: str) -> str:
        text = self._without_values(text)
        if _SHAPE_HINT.search(text):
            for hints, pattern in _SHAPES:
                if any(hint in text for hint in hints):
                    text = pattern.sub(_masked_shape, text)
        if max(map(len, text.split()), default=0) >= _FORTY_CHARS:
            text = _FORTY.sub(_masked_forty, text)
        return _NAMED.sub(_masked_named, text) if _hinted(text.lower()) else text

    def _without_values(self, text: str) -> str:
        for value in self._values:
            if value in text:
                text = text.replace(value, MASK)
        return text

    def _value(self, value: Json, kind: Kind, unfold: int) -> Json:
        match value:
            case None | bool():
                return value
            case str():
                return self._text_value(value, kind, unfold)
            case list():
                return [self._value(item, kind, unfold) for item in value]
            case dict():
                return {
                    self.text(key): self._value(item, _inherit(kind, key), unfold)
                    for key, item in value.items()
                }
            case _:
                opens = kind in (Kind.SECRET, Kind.SECRETS) or str(value) in self._values
                return MASK if opens else value

    def _text_value(self, text: str, kind: Kind, unfold: int) -> str:
        if opens(text, kind):
            return MASK
        if unfold and text[:1] in ("{", "[") and _hinted(text.lower()):
            inner = read_json(text)
            if inner.parsed and isinstance(inner.value, (list, dict)):
                masked = self._value(inner.value, Kind.PLAIN, unfold - 1)
                text = text if masked == inner.value else compact(masked)
        return self.text(text)


def opens(text: str, kind: Kind) -> bool:
    """Return whether a text under a name of that kind is a credential."""
    match kind:
        case Kind.PLAIN:
            return False
        case Kind.TOKEN:
            return not is_placeholder(text) and _looks_random(text)
        case Kind.SECRET | Kind.SECRETS:
            return not is_placeholder(text)


def _inherit(kind: Kind, key: str) -> Kind:
    return Kind.SECRETS if kind is Kind.SECRETS else kind_of(key)


def _looks_random(text: str) -> bool:
    return (
        len(text) >= _TOKEN_CHARS_MIN
        and not text.isdigit()
        and any(map(str.isdigit, text))
        and " " not in text
    )


def _hinted(lower: str) -> bool:
    for hint in _NAME_HINTS:  # noqa: SIM110 - `any` takes twice as long, and this runs on every text
        if hint in lower:
            return True
    return False


def _forms(value: str) -> set[str]:
    """Return the ways in which JSON and URLs write the value."""
    escaped = (json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1])
    return {value, *escaped, quote(value), quote(value, safe="")}


def _masked_shape(match: re.Match[str]) -> str:
    return match.groupdict().get("keep", "") + MASK


def _masked_forty(match: re.Match[str]) -> str:
    found = match[0]
    mixed = any(c.isdigit() for c in found) and found.lower() != found != found.upper()
    return MASK if mixed else found


def _masked_named(match: re.Match[str]) -> str:
    before = match.string[max(0, match.start() - _NAME_CHARS_MAX) : match.start()]
    name = _NAME_BEFORE.findall(before)[0] + match["core"] + match["tail"]
    value = match["quoted"] or match["bare"]
    if not _is_named_credential(match, name, value):
        return match[0]
    cut = match.start("quoted") if match["quoted"] else match.start("bare")
    end = match.end("quoted") if match["quoted"] else match.end("bare")
    return match[0][: cut - match.start()] + MASK + match[0][end - match.start() :]


def _is_named_credential(match: re.Match[str], name: str, value: str) -> bool:
    if match["sep"] is None:
        # Without a sign of assignment it is prose, but for `--password x` and "the pin is 4711".
        flagged = match["flag"] is not None and name.startswith("--")
        if not flagged and not (match["is"] and any(map(str.isdigit, value))):
            return False
    kind = kind_of(name)
    if kind is Kind.TOKEN:
        return opens(value.rsplit(maxsplit=1)[-1], kind)
    return opens(value, kind)
