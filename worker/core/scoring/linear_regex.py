"""Regular expressions whose matching time is bounded by text times pattern.

Rule: no pattern and no text can hang a worker. Python's `re` backtracks: `(a+)+$` takes for ever on
thirty letters, holds the interpreter's lock meanwhile, and cannot be interrupted. Here all ways to
match are followed at once, one character at a time (Thompson's construction), so only what needs
backtracking is missing: back references, look-around, atomic groups and possessive quantifiers.

Everything else means what it means in `re`: each single character is matched by `re` itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["LinearRegex", "UnsupportedPattern"]

#: Longer patterns are programs, not scorers.
_MAX_PATTERN_CHARS = 1_000
_MAX_NESTING = 30
#: `a{500}` is 500 instructions.
_MAX_INSTRUCTIONS = 500
#: Instructions times characters: about a second at worst.
_MAX_WORK = 2_000_000
_MAX_TEXT_CHARS = 50_000

_COUNTS = re.compile(r"\{(?P<low>\d*)(?:(?P<comma>,)(?P<high>\d*))?\}")
_CODE_POINT = re.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|N\{[^}]*\})")
_CLASS = re.compile(r"\[\^?\]?(?:[^\]\\]|\\.)*\]", re.DOTALL)
_GROUP = re.compile(r"\((?:\?:|\?P<\w+>|(?!\?))")
_WORD = re.compile(r"\w")

_Place = Literal["^", "$", "A", "Z", "b", "B"]
_PLACES: Mapping[str, _Place] = {"A": "A", "Z": "Z", "b": "b", "B": "B"}
_CHARACTER_ESCAPES = frozenset("dDsSwWafnrtvxuUN")


class UnsupportedPattern(ValueError):
    """The pattern is wrong, too large, or needs backtracking. The message does not quote it."""


class _Character:
    """One character, as `re` understands it."""

    def __init__(self, source: str, flags: int) -> None:
        self._pattern = re.compile(source, flags)
        self._known: dict[str, bool] = {}

    def takes(self, character: str) -> bool:
        known = self._known.get(character)
        if known is None:
            known = self._known[character] = self._pattern.fullmatch(character) is not None
        return known


class _Concatenation(NamedTuple):
    parts: tuple[_Node, ...]


class _Choice(NamedTuple):
    options: tuple[_Node, ...]


class _Repeat(NamedTuple):
    node: _Node
    low: int
    #: None has no limit.
    high: int | None


_Node = _Character | _Place | _Concatenation | _Choice | _Repeat


class _Jump(NamedTuple):
    """Go on at all of these."""

    targets: list[int]


@dataclass(frozen=True, slots=True)
class LinearRegex:
    """A compiled pattern."""

    _program: list[_Character | _Place | _Jump]
    _multiline: bool
    #: How much of a text is looked at.
    max_text_chars: int

    @classmethod
    def compile(cls, pattern: str, flags: int = 0) -> LinearRegex:
        """Return a pattern ready to match.

        Args:
            pattern: As for `re`.
            flags: Of `re`: IGNORECASE, MULTILINE and DOTALL.

        Raises:
            UnsupportedPattern: With the position and the reason.
        """
        if len(pattern) > _MAX_PATTERN_CHARS:
            raise UnsupportedPattern(f"it has more than {_MAX_PATTERN_CHARS} characters")
        try:
            re.compile(pattern, flags)
        except (re.error, RecursionError, OverflowError, Warning) as exc:
            where = f" at position {exc.pos}" if isinstance(exc, re.error) else ""
            raise UnsupportedPattern(f"it is no regular expression{where}") from None
        node = _Parser(pattern, flags).parse()
        if _size(node) > _MAX_INSTRUCTIONS:
            raise UnsupportedPattern("it is too large: use smaller numbers in {…}")
        program: list[_Character | _Place | _Jump] = []
        _emit(node, program)
        limit = min(_MAX_TEXT_CHARS, _MAX_WORK // (len(program) + 1))
        return cls(program, bool(flags & re.MULTILINE), limit)

    def matches(self, text: str, *, whole: bool = False) -> bool:
        """Whether the pattern is found in the text, or is the whole of it."""
        text = text[: self.max_text_chars]
        threads: set[int] = set()
        for at in range(len(text) + 1):
            if at == 0 or not whole:
                threads.add(0)
            threads = self._followed(threads, text, at)
            if len(self._program) in threads and (at == len(text) or not whole):
                return True
            if at < len(text):
                threads = self._after(threads, text[at])
        return False

    def _followed(self, threads: set[int], text: str, at: int) -> set[int]:
        """Return all instructions that are reached without taking a character."""
        reached: set[int] = set()
        left = list(threads)
        while left:
            number = left.pop()
            if number in reached:
                continue
            reached.add(number)
            instruction = None if number == len(self._program) else self._program[number]
            if isinstance(instruction, _Jump):
                left.extend(instruction.targets)
            elif isinstance(instruction, str) and self._holds(instruction, text, at):
                left.append(number + 1)
        return reached

    def _after(self, threads: set[int], character: str) -> set[int]:
        return {
            number + 1
            for number in threads
            if number < len(self._program)
            and isinstance(instruction := self._program[number], _Character)
            and instruction.takes(character)
        }

    def _holds(self, place: _Place, text: str, at: int) -> bool:
        match place:
            case "A":
                return at == 0
            case "Z":
                return at == len(text)
            case "^":
                return at == 0 or (self._multiline and text[at - 1] == "\n")
            case "$":
                last = at == len(text) - 1 or self._multiline
                return at == len(text) or (last and text[at] == "\n")
            case "b":
                return _word_at(text, at - 1) != _word_at(text, at)
            case "B":
                return _word_at(text, at - 1) == _word_at(text, at)


def _word_at(text: str, at: int) -> bool:
    return 0 <= at < len(text) and _WORD.match(text[at]) is not None


@dataclass(slots=True)
class _Parser:
    """Reads a pattern that `re` has found well-formed."""

    pattern: str
    flags: int
    at: int = 0
    nesting: int = 0
    _characters: dict[str, _Character] = field(default_factory=dict[str, _Character])

    def parse(self) -> _Node:
        """Return the choice that stands at this position, up to its closing bracket."""
        options: list[_Node] = [self._concatenation()]
        while self._next_is("|"):
            self.at += 1
            options.append(self._concatenation())
        return _Choice(tuple(options))

    def _concatenation(self) -> _Node:
        return _Concatenation(tuple(self._items()))

    def _items(self) -> Iterator[_Node]:
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            yield self._quantified(self._item())

    def _item(self) -> _Node:
        match self.pattern[self.at]:
            case "(":
                return self._group()
            case "[":
                found = _CLASS.match(self.pattern, self.at)
                return self._character(found[0] if found else "[")
            case "\\":
                return self._escape()
            case "^":
                self.at += 1
                return "^"
            case "$":
                self.at += 1
                return "$"
            case character:
                return self._character(character if character == "." else re.escape(character), 1)

    def _group(self) -> _Node:
        opening = _GROUP.match(self.pattern, self.at)
        self.nesting += 1
        if opening is None:
            self._refuse("look-around, back references, inline flags and comments")
        if self.nesting > _MAX_NESTING:
            self._refuse(f"more than {_MAX_NESTING} groups inside each other")
        self.at = opening.end()
        inside = self.parse()
        self.at += 1
        self.nesting -= 1
        return inside

    def _escape(self) -> _Node:
        letter = self.pattern[self.at + 1]
        if place := _PLACES.get(letter):
            self.at += 2
            return place
        if letter.isalnum() and letter not in _CHARACTER_ESCAPES:
            self._refuse("back references, octal numbers and unknown escapes")
        found = _CODE_POINT.match(self.pattern, self.at)
        return self._character(found[0] if found else self.pattern[self.at : self.at + 2])

    def _character(self, source: str, length: int = 0) -> _Character:
        self.at += length or len(source)
        if source not in self._characters:
            self._characters[source] = _Character(source, self.flags)
        return self._characters[source]

    def _quantified(self, node: _Node) -> _Node:
        counts = self._counts()
        if counts is None:
            return node
        if self._next_is("?"):
            self.at += 1  # lazy: how much is taken makes no difference to whether it matches
        elif self._next_is("+"):
            self._refuse("possessive quantifiers")
        return _Repeat(node, *counts)

    def _counts(self) -> tuple[int, int | None] | None:
        if self.at == len(self.pattern):
            return None
        simple: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        if counts := simple.get(self.pattern[self.at]):
            self.at += 1
            return counts
        found = _COUNTS.match(self.pattern, self.at)
        if found is None or found[0] == "{}":
            return None
        self.at = found.end()
        low = int(found["low"] or 0)
        if not found["comma"]:
            return low, low
        return low, int(found["high"]) if found["high"] else None

    def _next_is(self, character: str) -> bool:
        return self.pattern[self.at : self.at + 1] == character

    def _refuse(self, what: str) -> NoReturn:
        raise UnsupportedPattern(f"{what} are not supported (position {self.at})")


def _size(node: _Node) -> int:
    """Return how many instructions a node becomes."""
    match node:
        case _Concatenation(parts):
            return sum(map(_size, parts))
        case _Choice(options):
            return sum(_size(option) + 1 for option in options)
        case _Repeat(inner, low, high):
            return (_size(inner) + 1) * (low + 1 if high is None else max(low, high, 1))
        case _:
            return 1


def _emit(node: _Node, program: list[_Character | _Place | _Jump]) -> None:
    match node:
        case _Concatenation(parts):
            for part in parts:
                _emit(part, program)
        case _Choice(options):
            _emit_choice(options, program)
        case _Repeat(inner, low, high):
            for _ in range(low):
                _emit(inner, program)
            _emit_optional(inner, None if high is None else high - low, program)
        case _:
            program.append(node)


def _emit_choice(options: tuple[_Node, ...], program: list[_Character | _Place | _Jump]) -> None:
    fork = _Jump([])
    program.append(fork)
    ends: list[_Jump] = []
    for option in options:
        fork.targets.append(len(program))
        _emit(option, program)
        ends.append(_Jump([]))
        program.append(ends[-1])
    for end in ends:
        end.targets.append(len(program))


def _emit_optional(
    node: _Node, times: int | None, program: list[_Character | _Place | _Jump]
) -> None:
    """Emit a node that may come up to so many times, or for ever."""
    ways_out: list[_Jump] = []
    for _ in range(1 if times is None else times):
        ways_out.append(_Jump([len(program) + 1]))
        program.append(ways_out[-1])
        start = len(program) - 1
        _emit(node, program)
        if times is None:
            program.append(_Jump([start]))
    for way_out in ways_out:
        way_out.targets.append(len(program))
