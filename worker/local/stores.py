"""The reference's trace store as the tables of a home.

Rule: every trace is read once, through the store's own methods, in whatever shape it comes; one that
cannot be read costs itself, never the session. The store is not written to.
"""

from __future__ import annotations

import inspect
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.bundle.snapshot import copy_store
from worker.local.objects import attribute, items_of, json_text, number, text, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["write_traces"]

#: More traces than any store of one user holds; the reference's default is 100.
TRACES_MAX = 1_000_000
#: A trace with more steps is no conversation.
STEPS_MAX = 100_000

_TABLES = """
CREATE TABLE traces (
    trace_id TEXT NOT NULL UNIQUE, query TEXT, agent TEXT, model TEXT, engine TEXT, result TEXT,
    outcome TEXT, feedback REAL, started_at REAL, ended_at REAL, total_tokens INTEGER,
    total_latency_seconds REAL, metadata TEXT, messages TEXT);
CREATE TABLE trace_steps (
    trace_id TEXT, step_index INTEGER, step_type TEXT, timestamp REAL, duration_seconds REAL,
    input TEXT, output TEXT, metadata TEXT);
"""
_ADD_TRACE = "INSERT OR IGNORE INTO traces VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_ADD_STEP = "INSERT INTO trace_steps VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


def write_traces(store: object, target: Path) -> list[str]:
    """Write the store's traces into a new `traces.db`; return what was odd about them."""
    own = _file_of(store)
    if own is not None:
        copy_store(own, target)
        return []
    traces, remarks = _list_all(store)
    with closing(sqlite3.connect(target)) as connection, connection:
        connection.executescript(_TABLES)
        taken = sum(_add(connection, trace) for trace in traces)
    if taken < len(traces):
        remarks.append(f"{len(traces) - taken} traces have no id, or one that is taken: left out")
    return remarks


def _file_of(store: object) -> Path | None:
    """Return the file of a store that is OpenJarvis's own, None for every other store.

    Asked for all traces, that store looks through all steps for each one: 18 minutes for 20,000
    traces, and one row whose JSON does not parse makes it raise. A copy of its file takes a second.
    """
    kind = type(store)
    if (kind.__module__, kind.__qualname__) != ("openjarvis.traces.store", "TraceStore"):
        return None
    path = Path(text(attribute(store, "_db_path")) or ":memory:")
    return path if path.is_file() else None


def _list_all(store: object) -> tuple[list[Any], list[str]]:
    """Return every trace that the store will list."""
    list_traces: Callable[..., object] | None = getattr(store, "list_traces", None)
    if not callable(list_traces):
        return [], ["the trace store lists no traces: it has no method `list_traces`"]
    try:
        return items_of(_call(list_traces), TRACES_MAX), []
    except Exception as exc:  # noqa: BLE001 - theirs; the tasks can be explored without it
        return [], [f"the trace store could not be read: it raised {type(exc).__name__}: {exc}"]


def _call(list_traces: Callable[..., object]) -> object:
    """Ask for all traces; a method that takes no limit is asked without."""
    try:
        inspect.signature(list_traces).bind(limit=TRACES_MAX)
    except (TypeError, ValueError):
        return list_traces()
    return list_traces(limit=TRACES_MAX)


def _add(connection: sqlite3.Connection, trace: object) -> bool:
    """Add a trace with its steps; False where it has no id, or one that is there already."""
    trace_id = (text(attribute(trace, "trace_id")) or "").strip()
    if not trace_id:
        return False
    if connection.execute(_ADD_TRACE, _trace_row(trace_id, trace)).rowcount == 0:
        return False
    connection.executemany(_ADD_STEP, _step_rows(trace_id, trace))
    return True


def _trace_row(trace_id: str, trace: object) -> Sequence[object]:
    def words(*names: str) -> list[str | None]:
        return [text(attribute(trace, name)) for name in names]

    def numbers(*names: str) -> list[float | None]:
        return [number(attribute(trace, name)) for name in names]

    return (
        trace_id,
        *words("query", "agent", "model", "engine", "result", "outcome"),
        *numbers("feedback", "started_at", "ended_at"),
        whole(attribute(trace, "total_tokens")),
        *numbers("total_latency_seconds"),
        json_text(attribute(trace, "metadata", {})),
        json_text(attribute(trace, "messages", [])),
    )


def _step_rows(trace_id: str, trace: object) -> Iterator[Sequence[object]]:
    try:
        steps = items_of(attribute(trace, "steps"), STEPS_MAX)
    except Exception:  # noqa: BLE001 - theirs
        return
    for index, step in enumerate(steps):
        kind = text(attribute(step, "step_type") or attribute(step, "type"))
        yield (
            trace_id,
            index,
            kind or "",
            number(attribute(step, "timestamp")),
            number(attribute(step, "duration_seconds")),
            json_text(attribute(step, "input", {})),
            # A step without the reference's fields is shown as a whole.
            json_text(attribute(step, "output", {}) if kind else {"step": step}),
            json_text(attribute(step, "metadata", {})),
        )
