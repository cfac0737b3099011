"""The reference's trace store, samples and home as a bundle of ours.

Rule: a snapshot is taken once, at the start, through the store's own methods, so any object with the
reference's methods will do; nothing of the user's is written to.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.bundle.open import Bundle, open_bundle
from worker.bundle.pack import pack

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["snapshot"]

#: More traces than any store of one user holds; the reference's default is 100.
ALL_TRACES = 1_000_000

_SCHEMA = """
CREATE TABLE traces (
    trace_id TEXT NOT NULL UNIQUE, query TEXT, agent TEXT, model TEXT, engine TEXT, result TEXT,
    outcome TEXT, feedback REAL, started_at REAL, ended_at REAL, total_tokens INTEGER,
    total_latency_seconds REAL, metadata TEXT, messages TEXT);
CREATE TABLE trace_steps (
    trace_id TEXT, step_index INTEGER, step_type TEXT, timestamp REAL, duration_seconds REAL,
    input TEXT, output TEXT, metadata TEXT);
"""
_TEXTS = ("query", "agent", "model", "engine", "result", "outcome")
_NUMBERS = ("feedback", "started_at", "ended_at", "total_tokens", "total_latency_seconds")


def snapshot(
    *,
    trace_store: Any,
    samples: Sequence[Any],
    config: Mapping[str, Any],
    directory: Path,
) -> Bundle:
    """Return the collaborators' data as a bundle, made in `directory`.

    Raises:
        BundleInvalid: The samples or the home cannot be used; the message says why.
    """
    home = directory / "home"
    home.mkdir(parents=True)
    _copy_home(config, home)
    _write_traces(home / "traces.db", _traces(trace_store))
    (home / "benchmark.json").write_text(_benchmark(samples), encoding="utf-8")
    packed = pack(home, directory / "packed")
    return open_bundle(packed.path, directory / "bundle")


def _copy_home(config: Mapping[str, Any], home: Path) -> None:
    """Copy what the tools read of the user's home: configuration, prompts, descriptions."""
    theirs = Path(config.get("openjarvis_home") or home)
    config_path = Path(config.get("config_path") or theirs / "config.toml")
    if config_path.is_file():
        shutil.copyfile(config_path, home / "config.toml")
    descriptions = theirs / "tools" / "descriptions.toml"
    if descriptions.is_file():
        (home / "tools").mkdir()
        shutil.copyfile(descriptions, home / "tools" / "descriptions.toml")
    for prompt in theirs.glob("agents/*/system_prompt.md"):
        target = home / "agents" / prompt.parent.name
        target.mkdir(parents=True)
        shutil.copyfile(prompt, target / "system_prompt.md")


def _traces(trace_store: Any) -> Iterable[Any]:  # noqa: ANN401 - any object with the method
    """Return all traces of the store, whatever it takes to ask for all of them."""
    try:
        found = trace_store.list_traces(limit=ALL_TRACES)
    except TypeError:
        found = trace_store.list_traces()
    return found if isinstance(found, (list, tuple)) else ()


def _write_traces(path: Path, traces: Iterable[Any]) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(_SCHEMA)
        for trace in traces:
            row = _trace_row(trace)
            connection.execute(
                f"INSERT OR REPLACE INTO traces ({', '.join(row)}) "  # noqa: S608 - our own names
                f"VALUES ({', '.join('?' * len(row))})",
                tuple(row.values()),
            )
            steps = getattr(trace, "steps", None)
            for number, step in enumerate(steps if isinstance(steps, (list, tuple)) else ()):
                connection.execute(
                    "INSERT INTO trace_steps VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    _step_row(row["trace_id"], number, step),
                )


def _trace_row(trace: Any) -> dict[str, Any]:  # noqa: ANN401 - any object
    texts = {name: _text(getattr(trace, name, None)) for name in _TEXTS}
    numbers = {name: _number(getattr(trace, name, None)) for name in _NUMBERS}
    rest = {
        "metadata": _json(getattr(trace, "metadata", None) or {}),
        "messages": _json(getattr(trace, "messages", None) or []),
    }
    return {"trace_id": str(getattr(trace, "trace_id", "")), **texts, **numbers, **rest}


def _step_row(trace_id: str, number: int, step: Any) -> tuple[Any, ...]:  # noqa: ANN401 - any object
    kind = getattr(step, "step_type", "")
    return (
        trace_id,
        number,
        str(getattr(kind, "value", kind)),
        _number(getattr(step, "timestamp", None)),
        _number(getattr(step, "duration_seconds", None)),
        _json(getattr(step, "input", None) or {}),
        _json(getattr(step, "output", None) or {}),
        _json(getattr(step, "metadata", None) or {}),
    )


def _benchmark(samples: Sequence[Any]) -> str:
    rows = [
        {
            "trace_id": str(getattr(sample, "trace_id", "")),
            "query": _text(getattr(sample, "query", "")) or "",
            "reference_answer": _text(getattr(sample, "reference_answer", "")) or "",
            "agent": _text(getattr(sample, "agent", "")) or "",
            "category": _text(getattr(sample, "category", "chat")) or "chat",
            "feedback_score": _number(getattr(sample, "feedback_score", None)),
            "metadata": _object(getattr(sample, "metadata", None)),
        }
        for sample in samples
    ]
    return json.dumps({"workflow_id": "local", "samples": rows}, ensure_ascii=False, default=str)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _number(value: object) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
