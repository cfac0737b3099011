"""Full-text search over traces and their steps, and the place in a trace that matched.

Rule: filters come before ranking and ranking before the limit; what was left out is said.
"""

# Names in the SQL are constants of this package; what users give is always bound.
# ruff: noqa: S608

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from worker.traces.cells import read_json, read_text
from worker.traces.reading import message_texts, messages_of, plain_text
from worker.traces.words import RANKED_MAX, Word, choose, expression, split

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    from worker.traces.cells import Json
    from worker.traces.source import Table
    from worker.traces.words import Locator

__all__ = ["Found", "Query", "find", "locate", "read_question"]

#: Of a run of words that stands in more traces, it is only said that there are more.
COUNTED_MAX = 2_000

#: A word in the query or the result says more about a trace than one in a step.
#: In the order of the columns: query, result, agent, steps, messages.
_WEIGHTS = "3.0, 2.0, 1.0, 1.0, 1.0"


@dataclass(frozen=True, slots=True)
class Query:
    """A question made ready: what is searched for, the rarest word first."""

    used: tuple[Word, ...]
    ignored: tuple[Word, ...]
    #: Words that no trace holds.
    unknown: tuple[Word, ...]

    @property
    def is_empty(self) -> bool:
        """Whether the question has no word at all."""
        return not (self.used or self.ignored or self.unknown)

    def loosened(self) -> Query:
        """Return the query to try when the words that were used stand nowhere together."""
        used, ignored = choose(self.ignored)
        return Query(used, ignored, (*self.unknown, *self.used))


@dataclass(frozen=True, slots=True)
class Found:
    """A page of positions, the best first, or the newest where there is nothing to rank by."""

    positions: tuple[int, ...]
    total: int
    #: False where there are more than `total`.
    exact: bool
    ranked: bool


def read_question(connection: sqlite3.Connection, question: str) -> Query:
    """Return what to search for; with no word at all when the question holds none."""
    words = [
        Word(text, stems, min(_frequency(connection, stem) for stem in stems))
        for text, stems in split(connection, question).items()
    ]
    used, ignored = choose(word for word in words if word.traces)
    return Query(used, ignored, tuple(word for word in words if not word.traces))


def _frequency(connection: sqlite3.Connection, stem: str) -> int:
    """Return in how many traces a word stands."""
    # Counting a common word in the vocabulary takes milliseconds, so those have been counted.
    common = "SELECT traces FROM common_words WHERE stem = ?"
    rare = "SELECT doc FROM temp.vocabulary WHERE term = ?"
    for query in (common, rare):
        row = connection.execute(query, (stem,)).fetchone()
        if row:
            return row[0]
    return 0


def find(
    connection: sqlite3.Connection,
    words: tuple[Word, ...],
    condition: tuple[str, tuple[object, ...]],
    *,
    offset: int,
    limit: int,
) -> Found:
    """Return a page of the traces that hold any of the words and pass the condition."""
    if not words:
        return Found((), 0, exact=True, ranked=True)
    where, values = condition
    matching = f"FROM words JOIN traces AS t ON t.pos = words.rowid WHERE words MATCH ? AND {where}"
    given = (expression(words), *values)
    # bm25 looks up every trace with each of the words, whatever the limit and the filter are.
    ranked = sum(word.traces for word in words) <= RANKED_MAX
    # A run of words is looked for trace by trace, so where it may be common not all are counted.
    most = -1 if ranked or not any(word.stems[1:] for word in words) else COUNTED_MAX + 1
    count = f"SELECT count(*) FROM (SELECT 1 {matching} LIMIT ?)"
    (total,) = connection.execute(count, (*given, most)).fetchone()
    order = f"bm25(words, {_WEIGHTS}), words.rowid DESC" if ranked else "words.rowid DESC"
    rows = connection.execute(
        f"SELECT words.rowid {matching} ORDER BY {order} LIMIT ? OFFSET ?", (*given, limit, offset)
    )
    positions = tuple(pos for (pos,) in rows)
    exact = total != most
    return Found(positions, total if exact else COUNTED_MAX, exact=exact, ranked=ranked)


def locate(
    connection: sqlite3.Connection, tables: tuple[Table, Table | None], pos: int, locator: Locator
) -> tuple[str, Json]:
    """Return the place in a trace that holds most of the words, and what stands there."""
    words, best = 0, ("", cast("Json", None))
    for place, cells in _places(connection, tables, pos):
        if locator.most(cells) > words:
            value = _value(cells)
            found = locator.count(plain_text(value))
            if found > words:
                words, best = found, (place, value)
    return best


def _value(cells: Sequence[str]) -> Json:
    """Return a place's value: a text, or the input and output of a step."""
    if len(cells) == 1:
        return cells[0]
    given, output = (read_json(cell).value for cell in cells)
    return {"input": given, "output": output}


def _places(
    connection: sqlite3.Connection, tables: tuple[Table, Table | None], pos: int
) -> Iterator[tuple[str, Sequence[str]]]:
    traces, steps = tables
    query, result, agent, messages = connection.execute(
        f"SELECT {traces.columns('query', 'result', 'agent', 'messages')} FROM traces AS t "
        f"JOIN {traces.source} ON {traces.row} = t.source_row WHERE t.pos = ?",
        (pos,),
    ).fetchone()
    yield "query", [read_text(query)]
    yield "result", [read_text(result)]
    if steps is not None:
        yield from _step_places(connection, steps, pos)
    for n, text in message_texts(messages_of(read_json(messages))):
        yield f"message {n}", [text]
    yield "agent", [read_text(agent)]


def _step_places(
    connection: sqlite3.Connection, steps: Table, pos: int
) -> Iterator[tuple[str, Sequence[str]]]:
    rows = connection.execute(
        f"SELECT s.n, {steps.columns('input', 'output')} FROM steps AS s "
        f"JOIN {steps.source} ON {steps.row} = s.source_row WHERE s.pos = ? ORDER BY s.n",
        (pos,),
    )
    for n, *cells in rows:
        yield f"step {n}", [read_text(cell) for cell in cells]
