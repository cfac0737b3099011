"""A large trace store in OpenJarvis's format, the same bytes for the same numbers.

Rule: words are as uneven as in real text (a few everywhere, most rare), or search looks too fast.
"""

from __future__ import annotations

import itertools
import json
import random
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["SCHEMA", "build_large_store", "draw_words"]

#: The tables of OpenJarvis 1.0.4. It has no index on `trace_steps.trace_id` either.
SCHEMA = """
CREATE TABLE traces(
    id INTEGER PRIMARY KEY AUTOINCREMENT, trace_id TEXT NOT NULL UNIQUE,
    query TEXT NOT NULL DEFAULT '', agent TEXT NOT NULL DEFAULT '', model TEXT NOT NULL DEFAULT '',
    engine TEXT NOT NULL DEFAULT '', result TEXT NOT NULL DEFAULT '', outcome TEXT, feedback REAL,
    started_at REAL NOT NULL DEFAULT 0.0, ended_at REAL NOT NULL DEFAULT 0.0,
    total_tokens INTEGER NOT NULL DEFAULT 0, total_latency_seconds REAL NOT NULL DEFAULT 0.0,
    metadata TEXT NOT NULL DEFAULT '{}', messages TEXT NOT NULL DEFAULT '[]'
);
CREATE TABLE trace_steps(
    id INTEGER PRIMARY KEY AUTOINCREMENT, trace_id TEXT NOT NULL, step_index INTEGER NOT NULL,
    step_type TEXT NOT NULL, timestamp REAL NOT NULL DEFAULT 0.0,
    duration_seconds REAL NOT NULL DEFAULT 0.0, input TEXT NOT NULL DEFAULT '{}',
    output TEXT NOT NULL DEFAULT '{}', metadata TEXT NOT NULL DEFAULT '{}'
);
"""

_COMMON = (
    "the to your flight reservation is for and a you of on i would like with can please user "
    "cancel change book refund policy airport baggage passenger payment certificate travel"
)
_WORDS = (
    *_COMMON.split(" "),
    *(f"{head}{tail}" for head in "bcdfglmnprst" for tail in range(2_000)),
)
#: Zipf's law: the n-th word is n times rarer than the first.
_WEIGHTS = tuple(itertools.accumulate(1 / n for n in range(1, len(_WORDS) + 1)))
_TOOLS = ("get_user_details", "search_direct_flight", "book_reservation", "calculate")
_OUTCOMES = ("success", "failure", "error", "timeout", None)


def build_large_store(path: Path, traces: int, steps: int) -> Path:
    """Write a store with this many traces of this many steps each, and return its path."""
    chance = random.Random(f"{traces}x{steps}")  # noqa: S311
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(f"PRAGMA journal_mode=off; PRAGMA synchronous=off; {SCHEMA} BEGIN")
        for number in range(traces):
            connection.execute(_ADD_TRACE, _trace(chance, number))
            connection.executemany(_ADD_STEP, _steps(chance, number, steps))
        connection.execute("COMMIT")
    return path


def draw_words(chance: random.Random, count: int) -> list[str]:
    """Return words as frequent as in the stores that are built here."""
    return chance.choices(_WORDS, cum_weights=_WEIGHTS, k=count)


_ADD_TRACE = (
    "INSERT INTO traces(trace_id, query, agent, model, engine, result, outcome, feedback,"
    " started_at, ended_at, total_tokens, total_latency_seconds, metadata)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_ADD_STEP = (
    "INSERT INTO trace_steps(trace_id, step_index, step_type, timestamp, input, output)"
    " VALUES (?, ?, ?, ?, ?, ?)"
)


def _trace(chance: random.Random, number: int) -> tuple[object, ...]:
    started_at = 1_700_000_000.0 + 60 * number
    return (
        *(f"trace-{number:06}", _text(chance, 25), f"agent-{number % 3}", "model", "local"),
        *(_text(chance, 40), chance.choice(_OUTCOMES), chance.choice((0.0, 0.5, 1.0, None))),
        *(started_at, started_at + 30, 900, 30.0),
        json.dumps({"task_id": f"task-{number % 50:02}"}),
    )


def _steps(chance: random.Random, number: int, steps: int) -> Iterator[tuple[object, ...]]:
    for index in range(steps):
        if index % 2:
            given = {"tool": chance.choice(_TOOLS), "arguments": json.dumps({"q": f"u{number}"})}
            output = {"result": json.dumps({"found": _text(chance, 90)}), "success": True}
        else:
            given, output = {}, {"content": _text(chance, 60), "success": True}
        kind = "tool_call" if index % 2 else "generate"
        yield f"trace-{number:06}", index, kind, 0.0, json.dumps(given), json.dumps(output)


def _text(chance: random.Random, words: int) -> str:
    return " ".join(draw_words(chance, words))
