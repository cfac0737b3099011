"""From a question in natural language to a full-text query, and back to the place that matched.

Rule: nothing that is typed reaches SQLite as query syntax: words are taken out, quoted and joined
with OR. What counts as one word, and as the same word, is decided by FTS5's own tokenizer.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.traces.cells import utf8

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

__all__ = [
    "RANKED_MAX",
    "TOKENIZER",
    "Locator",
    "Word",
    "choose",
    "expression",
    "fold",
    "named",
    "prepare",
    "quoted",
    "split",
]

#: English endings are cut ("flights" finds "flight"), accents are dropped.
TOKENIZER = "porter unicode61 remove_diacritics 2"

#: A longer question is read up to here: each word costs a look-up.
WORDS_MAX = 32

#: Traces that a search ranks. bm25 takes about 2 µs a trace and word, so this many take some 4 ms.
#: A word that stands in more says too little to rank by.
RANKED_MAX = 2_000

_FUNCTION_WORDS = frozenset(
    "a about all am an and any are as at be been but by can could did do does for from get got had"  # noqa: SIM905
    " has have he her his how i if in into is it its just me my not of on or our please she should"
    " so some that the their them then there these they this those to us was we were what when"
    " where which who whose why will with would you your".split()
)

#: Where a stem does not end as its words do: "policy" is "polici", "making" is "make".
_ENDINGS = {"i": "(?=[iy])", "e": "(?=[ei])"}


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a question, or a run of words without a space (`get_user_details`)."""

    #: As it was typed, in lower case, without what surrounds it.
    text: str
    #: What the tokenizer makes of it, in order.
    stems: tuple[str, ...]
    #: In how many traces it stands.
    traces: int


def prepare(connection: sqlite3.Connection) -> None:
    """Give the connection a scratch table that tokenizes as the index does, and its vocabulary."""
    connection.execute(
        f"CREATE VIRTUAL TABLE temp.scratch USING fts5(text, tokenize='{TOKENIZER}')"
    )
    connection.execute("CREATE VIRTUAL TABLE temp.scratch_words USING fts5vocab(scratch, instance)")
    connection.execute("CREATE VIRTUAL TABLE temp.vocabulary USING fts5vocab(main, words, row)")


def split(connection: sqlite3.Connection, question: str) -> dict[str, tuple[str, ...]]:
    """Return the distinct words of the question with their stems, in the order they were typed."""
    found: dict[tuple[str, ...], str] = {}
    for chunk in re.findall(r"[^\s\x00]+", utf8(question).lower()):
        word = re.sub(r"^\W+|\W+$", "", chunk) or chunk
        stems = _stems(connection, word)
        if stems and len(found) < WORDS_MAX:
            found.setdefault(stems, word)
    return {word: stems for stems, word in found.items()}


def choose(words: Iterable[Word]) -> tuple[tuple[Word, ...], tuple[Word, ...]]:
    """Return the words worth searching for, the rarest first, and those to ignore.

    The rarest is always searched for. A common one says little and costs much, so it is left out
    once the rarer ones have found enough to rank. So are the words that make a question of it:
    "how do I" is rare in traces and would outweigh what is asked for.
    """
    ordered = sorted(words, key=lambda word: (word.text in _FUNCTION_WORDS, word.traces))
    used, ignored = ordered[:1], list[Word]()
    ranked = sum(word.traces for word in used)
    for word in ordered[1:]:
        if word.text in _FUNCTION_WORDS or ranked + word.traces > RANKED_MAX:
            ignored.append(word)
        else:
            used.append(word)
            ranked += word.traces
    return tuple(used), tuple(ignored)


def named(words: Iterable[Word]) -> tuple[str, ...]:
    """Return the words that are worth naming, as they were typed."""
    return tuple(word.text for word in words if word.text not in _FUNCTION_WORDS)


def expression(words: Iterable[Word]) -> str:
    """Return the FTS5 query that finds any of the words."""
    return " OR ".join(quoted(word.text) for word in words)


def quoted(text: str) -> str:
    """Return the text as a phrase of FTS5, whatever stands in it."""
    return '"' + text.replace('"', '""') + '"'


def fold(text: str) -> str:
    """Return the text in lower case without accents, each character in its old place."""
    return text.lower() if text.isascii() else text.translate(_FOLDED)


class Locator:
    """Finds words in a text, with any ending. May err where two words differ in it alone."""

    def __init__(self, words: Iterable[Word]) -> None:
        stems = sorted({stem for word in words for stem in word.stems})
        self._heads = [_head(stem) for stem in stems]
        heads = "|".join(
            re.escape(head) + _ENDINGS.get(stem[len(head) :], "")
            for head, stem in zip(self._heads, stems, strict=True)
        )
        self._pattern = re.compile(rf"(?<![^\W_])(?:{heads})") if heads else re.compile(r"(?!)")

    def start(self, text: str) -> int:
        """Return where the first of the words begins; 0 where none is found."""
        found = self._pattern.search(fold(text))
        return found.start() if found else 0

    def count(self, text: str) -> int:
        """Return how many different words stand in the text."""
        return len(set(self._pattern.findall(fold(text))))

    def most(self, cells: Iterable[str]) -> int:
        """Return a bound on `count` for cells of JSON, without reading them."""
        text = "\n".join(cells)
        if not text.isascii() or "\\u" in text:
            return len(self._heads)
        lower = text.lower()
        return sum(head in lower for head in self._heads)


def _stems(connection: sqlite3.Connection, text: str) -> tuple[str, ...]:
    connection.execute("DELETE FROM temp.scratch")
    connection.execute("INSERT INTO temp.scratch(text) VALUES (?)", (text,))
    rows = connection.execute("SELECT term FROM temp.scratch_words ORDER BY offset")
    return tuple(str(term) for (term,) in rows)


def _head(stem: str) -> str:
    """Return the part of the stem with which all of its words begin."""
    return stem[:-1] if len(stem) > 1 and stem[-1] in _ENDINGS else stem


class _Folded(dict[int, str]):
    """What `fold` makes of a character, worked out when it is first met."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        base, *marks = unicodedata.normalize("NFD", character.lower())
        # Hangul takes syllables apart, too; only marks on a letter are dropped.
        plain = base if all(map(unicodedata.combining, marks)) else character
        self[code] = plain
        return plain


_FOLDED = _Folded()
