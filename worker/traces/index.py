"""The side file that makes a trace store fast to read: built once, then only read.

Rule: an index appears whole or not at all, and holds nothing that the store does not.
"""

# Names in the SQL are constants of this package; what users give is always bound.
# ruff: noqa: S608

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING
from urllib.parse import quote

from worker.traces.cells import JsonCell, compact, read_json, read_number, read_text
from worker.traces.model import TraceOutcome, TraceReport
from worker.traces.reading import message_texts, messages_of, plain_text, task_of, tool_of
from worker.traces.source import attach, find_tables, translated
from worker.traces.tally import Tally
from worker.traces.words import TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["VERSION", "build_index", "read_report"]

#: Grows whenever the tables below change; an index of another version is built again.
VERSION = 1

#: A word that stands in fewer traces is searched for without asking how many.
COMMON_TRACES_MIN = 64

#: Longer ids are no ids; their traces are called by their row.
_ID_CHARS_MAX = 200

_TABLES = f"""
CREATE TABLE traces(
    pos INTEGER PRIMARY KEY,      -- grows with started_at; also the rowid in `words`
    trace_id TEXT NOT NULL UNIQUE,
    source_row INTEGER NOT NULL,
    copies INTEGER NOT NULL,
    agent TEXT NOT NULL COLLATE NOCASE,
    outcome TEXT NOT NULL,
    feedback REAL,
    task_id TEXT NOT NULL,
    steps INTEGER NOT NULL
);
CREATE TABLE steps(
    pos INTEGER NOT NULL,
    n INTEGER NOT NULL,
    source_row INTEGER NOT NULL,
    step_type TEXT NOT NULL,
    label TEXT NOT NULL,
    chars INTEGER NOT NULL,
    PRIMARY KEY (pos, n)
) WITHOUT ROWID;
CREATE VIRTUAL TABLE words USING fts5(
    query, result, agent, steps, messages, content='', tokenize='{TOKENIZER}'
);
CREATE VIRTUAL TABLE temp.vocabulary USING fts5vocab(main, words, row);
CREATE TABLE common_words(stem TEXT PRIMARY KEY, traces INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE report(body TEXT NOT NULL);
CREATE TEMP TABLE standing(
    pos INTEGER PRIMARY KEY, stored_id TEXT UNIQUE, trace_id TEXT, source_row INTEGER, copies INTEGER
);
CREATE TEMP TABLE ordered(pos INTEGER, source_row INTEGER);
"""

_ADD_COMMON_WORDS = """
INSERT INTO common_words SELECT term, doc FROM temp.vocabulary WHERE doc >= ?
"""


def build_index(store: Path, target: Path) -> TraceReport:
    """Build the index of the store at `target` and return what the store holds.

    Raises:
        BundleInvalid: The store is no SQLite file, is damaged, or has no table of traces.
    """
    partial = target.with_name(f"{target.name}.partial")
    partial.unlink(missing_ok=True)
    with translated(store), closing(_open_empty(partial)) as connection:
        attach(connection, store)
        report = _Builder(connection).build()
    partial.replace(target)
    return report


def read_report(connection: sqlite3.Connection) -> TraceReport | None:
    """Return the report in the index; None for an index of another version."""
    if connection.execute("PRAGMA user_version").fetchone()[0] != VERSION:
        return None
    (body,) = connection.execute("SELECT body FROM report").fetchone()
    return TraceReport(**json.loads(body))


def _open_empty(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}", uri=True, isolation_level=None
    )
    # A crash leaves a partial file that nobody opens, so nothing needs a journal or a flush.
    for pragma in ("journal_mode = off", "synchronous = off", f"user_version = {VERSION}"):
        connection.execute(f"PRAGMA {pragma}")
    connection.executescript(_TABLES)
    return connection


class _Builder:
    """One pass over the traces to order them, one to read each with its steps."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._execute = connection.execute
        self._traces, self._steps = find_tables(connection)
        self._tally = Tally()

    def build(self) -> TraceReport:
        self._execute("BEGIN")
        self._order_traces()
        self._order_steps()
        self._read_traces()
        self._execute(_ADD_COMMON_WORDS, (COMMON_TRACES_MIN,))
        self._execute("INSERT INTO words(words) VALUES ('optimize')")
        report = self._tally.report()
        self._execute("INSERT INTO report VALUES (?)", (json.dumps(asdict(report)),))
        self._execute("COMMIT")
        return report

    def _order_traces(self) -> None:
        """Give every trace its place in time; of rows that share an id the newest one stands."""
        started = self._traces.column("started_at")
        rows = self._execute(
            f"SELECT {self._traces.row}, {self._traces.column('trace_id')} "
            f"FROM {self._traces.source} ORDER BY "
            f"CASE WHEN typeof({started}) IN ('integer', 'real') THEN {started} END, 1"
        )
        for pos, (source_row, cell) in enumerate(rows, start=1):
            stored_id = read_text(cell)
            usable = 0 < len(stored_id) <= _ID_CHARS_MAX
            trace_id = stored_id if usable else f"row:{source_row}"
            self._tally.add("traces_without_id", not usable)
            self._stand(pos, stored_id or None, trace_id, source_row)

    def _stand(self, pos: int, stored_id: str | None, trace_id: str, source_row: int) -> None:
        taken = "DELETE FROM temp.standing WHERE stored_id = ? RETURNING copies"
        older = self._execute(taken, (stored_id,)).fetchone()
        self._tally.add("duplicate_traces", older is not None)
        self._execute(
            "INSERT INTO temp.standing VALUES (?, ?, ?, ?, ?)",
            (pos, stored_id, trace_id, source_row, older[0] + 1 if older else 1),
        )

    def _order_steps(self) -> None:
        if self._steps is None or "trace_id" not in self._steps.present:
            return
        self._execute(
            f"INSERT INTO temp.ordered SELECT t.pos, {self._steps.row} FROM {self._steps.source} "
            "JOIN temp.standing AS t ON t.stored_id = CAST(src.trace_id AS TEXT) "
            f"ORDER BY t.pos, {self._steps.column('step_index')}, {self._steps.row}"
        )
        self._execute("CREATE INDEX temp.by_trace ON ordered(pos)")
        (total,) = self._execute(f"SELECT count(*) FROM {self._steps.source}").fetchone()
        (found,) = self._execute("SELECT count(*) FROM temp.ordered").fetchone()
        self._tally.add("orphan_steps", total - found)

    def _read_traces(self) -> None:
        columns = self._traces.columns(
            *("query", "agent", "model", "result", "outcome", "feedback", "started_at"),
            *("metadata", "messages"),
        )
        rows = self._execute(
            f"SELECT t.pos, t.trace_id, t.source_row, t.copies, {columns} FROM temp.standing AS t "
            f"JOIN {self._traces.source} ON {self._traces.row} = t.source_row ORDER BY t.pos"
        )
        for pos, trace_id, source_row, copies, *cells in rows:
            steps = self._read_steps(pos)
            self._add_trace((pos, trace_id, source_row, copies), cells, steps)

    def _add_trace(
        self, key: tuple[int, str, int, int], cells: Sequence[object], steps: list[str]
    ) -> None:
        query, agent, model, result, recorded = (read_text(cell) for cell in cells[:5])
        feedback, started_at = (read_number(cell) for cell in cells[5:7])
        metadata, messages = (read_json(cell) for cell in cells[7:])
        outcome = TraceOutcome.of(recorded)
        row = (agent, outcome.value, feedback, task_of(metadata.value), len(steps))
        self._insert_trace(*key, row)
        said = "\n".join(text for _, text in message_texts(messages_of(messages)))
        texts = (key[0], query, result, agent, "\n".join(steps), said)
        self._execute(
            "INSERT INTO words(rowid, query, result, agent, steps, messages) "
            f"VALUES ({_marks(texts)})",
            texts,
        )
        self._tally.add("unparsable_traces", not (metadata.parsed and messages.parsed))
        self._tally.trace(
            agent=agent,
            model=model,
            recorded=recorded,
            feedback=feedback,
            started_at=started_at,
            steps=len(steps),
        )

    def _insert_trace(
        self, pos: int, trace_id: str, source_row: int, copies: int, rest: tuple[object, ...]
    ) -> None:
        # `row:7` may also be the id that a user gave to another trace.
        while True:
            row = (pos, trace_id, source_row, copies, *rest)
            added = self._execute(f"INSERT OR IGNORE INTO traces VALUES ({_marks(row)})", row)
            if added.rowcount:
                return
            trace_id += f"#{pos}"

    def _read_steps(self, pos: int) -> list[str]:
        """Index the steps of a trace and return the words of each."""
        if self._steps is None:
            return []
        rows = self._execute(
            f"SELECT o.source_row, {self._steps.columns('step_type', 'input', 'output', 'metadata')} "
            f"FROM temp.ordered AS o JOIN {self._steps.source} "
            f"ON {self._steps.row} = o.source_row WHERE o.pos = ? ORDER BY o.rowid",
            (pos,),
        ).fetchall()
        return [
            self._add_step((pos, n, source_row), read_text(step_type), *map(read_json, cells))
            for n, (source_row, step_type, *cells) in enumerate(rows)
        ]

    def _add_step(
        self,
        key: tuple[int, int, int],
        step_type: str,
        given: JsonCell,
        output: JsonCell,
        metadata: JsonCell,
    ) -> str:
        tool = tool_of(step_type, given.value)
        chars = len(compact(given.value)) + len(compact(output.value))
        row = (*key, step_type, tool, chars)
        self._execute(f"INSERT INTO steps VALUES ({_marks(row)})", row)
        self._tally.add("unparsable_steps", not all(c.parsed for c in (given, output, metadata)))
        self._tally.step(step_type, tool)
        return f"{plain_text(given.value)}\n{plain_text(output.value)}"


def _marks(row: tuple[object, ...]) -> str:
    return ", ".join("?" * len(row))
