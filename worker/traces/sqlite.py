"""OpenJarvis's SQLite trace store, read through an index of our own.

Rule: the store is opened read-only and immutable, every filter comes before every limit, and no
question can be a syntax error.
"""

# Names in the SQL are constants of this package; what users give is always bound.
# ruff: noqa: S608

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from worker.errors import BundleInvalid
from worker.traces.cells import JsonCell, read_json, read_number, read_text, utf8
from worker.traces.index import read_report
from worker.traces.model import (
    Hit,
    HitPage,
    Order,
    Step,
    StepHead,
    Summary,
    SummaryPage,
    Trace,
    TraceFilter,
    TraceOutcome,
)
from worker.traces.pool import ConnectionPool
from worker.traces.reading import messages_of
from worker.traces.search import find, locate, read_question
from worker.traces.source import STEP_COLUMNS, attach, find_tables, translated, uri_of
from worker.traces.words import Locator, named, prepare

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from worker.traces.model import TraceReport
    from worker.traces.search import Found, Query

__all__ = ["SqliteTraces"]

#: What a summary shows of a query, before credentials are masked and it is cut further.
_QUERY_CHARS_MAX = 4_000

#: Names that are offered instead of an unknown trace id.
_NEAR_MAX = 3


class SqliteTraces:
    """A trace store and its index. May be used by any number of threads until it is closed."""

    def __init__(self, store: Path, index: Path) -> None:
        """Open both files.

        Raises:
            BundleInvalid: One of them cannot be read, or the index is of another version.
        """
        self._store = store
        self._index = index
        self._pool = ConnectionPool(self._connect)
        with translated(store), self._pool.connection() as connection:
            self._tables = find_tables(connection)
            report = read_report(connection)
        if report is None:
            raise BundleInvalid(f"{index.name!r} is of another version: build it again")
        #: What the store holds, counted when the index was built.
        self.report: TraceReport = report

    def close(self) -> None:
        """Close the files. To be called when no thread reads any more."""
        self._pool.close()

    def list(
        self,
        chosen: TraceFilter | None = None,
        *,
        order: Order = Order.NEWEST,
        offset: int = 0,
        limit: int = 20,
    ) -> SummaryPage:
        """Return a part of the traces that pass the filter."""
        where, values = _condition(chosen or TraceFilter())
        with self._reading() as connection:
            (total,) = connection.execute(
                f"SELECT count(*) FROM traces AS t WHERE {where}",
                values,
            ).fetchone()
            rows = connection.execute(
                f"SELECT t.pos FROM traces AS t WHERE {where} "
                f"ORDER BY t.pos {'ASC' if order is Order.OLDEST else 'DESC'} LIMIT ? OFFSET ?",
                (*values, *((-1, 0) if order is Order.SPREAD else (limit, offset))),
            )
            positions = [pos for (pos,) in rows]
            if order is Order.SPREAD:
                positions = _spread(positions, limit)[offset : offset + limit]
            return SummaryPage(summaries=self._summaries(connection, positions), total=total)

    def search(
        self,
        question: str,
        chosen: TraceFilter | None = None,
        *,
        offset: int = 0,
        limit: int = 20,
    ) -> HitPage | None:
        """Return a part of what the question finds, the best first.

        None for a question without any word (letters or digits).
        """
        condition = _condition(chosen or TraceFilter())
        with self._reading() as connection:
            query = read_question(connection, question)
            if query.is_empty:
                return None
            found = find(connection, query.used, condition, offset=offset, limit=limit)
            while not found.total and query.ignored:
                query = query.loosened()
                found = find(connection, query.used, condition, offset=offset, limit=limit)
            return self._hit_page(connection, query, found)

    def get(self, trace_id: str) -> Trace | None:
        """Return a trace without its steps; None for an unknown id."""
        traces, _ = self._tables
        names = (*_TEXTS, *_NUMBERS, "metadata", "messages")
        with self._reading() as connection:
            row = connection.execute(
                f"SELECT t.steps, t.copies, {traces.columns(*names)} FROM traces AS t "
                f"JOIN {traces.source} ON {traces.row} = t.source_row WHERE t.trace_id = ?",
                (utf8(trace_id),),
            ).fetchone()
        return _trace(trace_id, row) if row else None

    def outline(self, trace_id: str, *, first: int = 0, limit: int = -1) -> tuple[StepHead, ...]:
        """Return the steps' names and sizes from number `first` on; all of them by default."""
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT s.n, s.step_type, s.label, s.chars FROM steps AS s "
                "JOIN traces AS t ON t.pos = s.pos "
                "WHERE t.trace_id = ? AND s.n >= ? ORDER BY s.n LIMIT ?",
                (utf8(trace_id), first, limit),
            ).fetchall()
        return tuple(
            StepHead(n=n, step_type=step_type, label=label, chars=chars)
            for n, step_type, label, chars in rows
        )

    def steps(self, trace_id: str, *, first: int = 0, limit: int = 1) -> tuple[Step, ...]:
        """Return whole steps from number `first` on."""
        _, table = self._tables
        if table is None:
            return ()
        with self._reading() as connection:
            rows = connection.execute(
                f"SELECT s.n, {table.columns(*STEP_COLUMNS[1:])} FROM steps AS s "
                f"JOIN traces AS t ON t.pos = s.pos "
                f"JOIN {table.source} ON {table.row} = s.source_row "
                "WHERE t.trace_id = ? AND s.n >= ? ORDER BY s.n LIMIT ?",
                (utf8(trace_id), first, limit),
            ).fetchall()
        return tuple(_step(*row) for row in rows)

    def near(self, trace_id: str) -> tuple[str, ...]:
        """Return ids that stand close to this one in alphabetical order."""
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT * FROM (SELECT trace_id FROM traces WHERE trace_id < ?1 "
                "ORDER BY trace_id DESC LIMIT 1) UNION ALL "
                "SELECT * FROM (SELECT trace_id FROM traces WHERE trace_id >= ?1 "
                "ORDER BY trace_id LIMIT ?2)",
                (utf8(trace_id), _NEAR_MAX - 1),
            ).fetchall()
        return tuple(str(near) for (near,) in rows)

    @contextmanager
    def _reading(self) -> Generator[sqlite3.Connection]:
        with translated(self._store), self._pool.connection() as connection:
            yield connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            uri_of(self._index), uri=True, check_same_thread=False, isolation_level=None
        )
        # Half a megabyte of pages: the system's own cache holds the rest once for all processes.
        for pragma in ("cache_size = -512", "temp_store = memory"):
            connection.execute(f"PRAGMA {pragma}")
        attach(connection, self._store)
        connection.execute("PRAGMA source.cache_size = -512")
        prepare(connection)
        return connection

    def _hit_page(self, connection: sqlite3.Connection, query: Query, found: Found) -> HitPage:
        locator = Locator(query.used)
        places = (locate(connection, self._tables, pos, locator) for pos in found.positions)
        summaries = self._summaries(connection, found.positions)
        return HitPage(
            hits=tuple(
                Hit(summary=summary, place=place, value=value)
                for summary, (place, value) in zip(summaries, places, strict=True)
            ),
            total=found.total,
            total_is_exact=found.exact,
            ranked=found.ranked,
            words_used=tuple(word.text for word in query.used),
            words_ignored=named(query.ignored),
            words_unknown=named(query.unknown),
            locator=locator,
        )

    def _summaries(
        self, connection: sqlite3.Connection, positions: Sequence[int]
    ) -> tuple[Summary, ...]:
        traces, _ = self._tables
        names = ("agent", "model", "outcome", "feedback", "started_at")
        rows = connection.execute(
            f"SELECT t.pos, t.trace_id, t.steps, t.task_id, "
            f"substr({traces.column('query')}, 1, {_QUERY_CHARS_MAX}), {traces.columns(*names)} "
            f"FROM traces AS t JOIN {traces.source} ON {traces.row} = t.source_row "
            f"WHERE t.pos IN ({', '.join('?' * len(positions))})",
            positions,
        )
        by_pos = {pos: _summary(*row) for pos, *row in rows}
        return tuple(by_pos[pos] for pos in positions)


_TEXTS = ("query", "agent", "model", "engine", "result", "outcome")
_NUMBERS = ("feedback", "started_at", "ended_at", "total_tokens", "total_latency_seconds")


def _condition(chosen: TraceFilter) -> tuple[str, tuple[object, ...]]:
    """Return the filter as SQL on the alias `t`, and its values."""
    tests = {
        "t.agent = ?": chosen.agent,
        "t.outcome = ?": chosen.outcome,
        "t.feedback >= ?": chosen.min_feedback,
        "t.feedback <= ?": chosen.max_feedback,
    }
    wanted = {test: value for test, value in tests.items() if value is not None}
    return " AND ".join(wanted) or "1", tuple(wanted.values())


def _spread(positions: list[int], limit: int) -> list[int]:
    """Return the positions so that every page of `limit` runs evenly over all of them."""
    stride = max(1, -(-len(positions) // limit))
    return [pos for start in range(stride) for pos in positions[start::stride]]


def _summary(trace_id: str, steps: int, task_id: str, *cells: object) -> Summary:
    query, agent, model, recorded = map(read_text, cells[:4])
    feedback, started_at = map(read_number, cells[4:])
    return Summary(
        trace_id=trace_id,
        query=query,
        agent=agent,
        model=model,
        outcome=TraceOutcome.of(recorded),
        recorded_outcome=recorded,
        feedback=feedback,
        started_at=started_at,
        steps=steps,
        task_id=task_id,
    )


def _trace(trace_id: str, row: Sequence[object]) -> Trace:
    steps, copies, *cells = row
    texts = dict(zip(_TEXTS, map(read_text, cells), strict=False))
    numbers = dict(zip(_NUMBERS, map(read_number, cells[len(_TEXTS) :]), strict=False))
    metadata, messages = (read_json(cell) for cell in cells[-2:])
    recorded = texts.pop("outcome")
    return Trace(
        trace_id=trace_id,
        **texts,
        **numbers,
        outcome=TraceOutcome.of(recorded),
        recorded_outcome=recorded,
        metadata=metadata.value,
        messages=messages_of(messages),
        steps=cast("int", steps),
        copies=cast("int", copies),
        unparsable=_unparsable(metadata=metadata, messages=messages),
    )


def _step(
    n: int,
    step_index: object,
    step_type: object,
    timestamp: object,
    duration_seconds: object,
    *cells: object,
) -> Step:
    given, output, metadata = map(read_json, cells)
    return Step(
        n=n,
        step_index=read_json(step_index).value,
        step_type=read_text(step_type),
        timestamp=read_number(timestamp),
        duration_seconds=read_number(duration_seconds),
        input=given.value,
        output=output.value,
        metadata=metadata.value,
        unparsable=_unparsable(input=given, output=output, metadata=metadata),
    )


def _unparsable(**cells: JsonCell) -> tuple[str, ...]:
    return tuple(name for name, cell in cells.items() if not cell.parsed)
