"""Homes and stores for tests, made of whatever a test wants to find in them."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from worker.bundle import open_bundle, pack
from worker.traces import SqliteTraces, build_index
from worker.traces.source import STEP_COLUMNS, TRACE_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from worker.bundle import Bundle

__all__ = [
    "CONFIG",
    "TAU",
    "make_home",
    "opened",
    "pack_and_open",
    "tau_home",
    "write_store",
]

TAU = Path(__file__).parents[4] / "shared" / "data" / "tau-airline-home"

Row = dict[str, Any]

CONFIG = """
[intelligence]
default_model = "gpt-4o"
max_tokens = 30

[channel.email]
username = "ops@example.com"
password = "correct-horse-EXAMPLE"
"""


def tau_home() -> Path:
    """Return the recorded home, or skip the test where it is absent."""
    if not TAU.is_dir():
        pytest.skip("the recorded airline home is not on this machine (../shared/data)")
    return TAU


def write_store(
    path: Path,
    traces: Iterable[Row],
    steps: Iterable[Row] = (),
    *,
    trace_columns: Sequence[str] = TRACE_COLUMNS,
    step_columns: Sequence[str] | None = STEP_COLUMNS,
) -> Path:
    """Write a store whose columns have no type, so that a cell may hold anything."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"CREATE TABLE traces({', '.join(trace_columns)})")
        _insert(connection, "traces", traces)
        if step_columns is not None:
            connection.execute(f"CREATE TABLE trace_steps({', '.join(step_columns)})")
            _insert(connection, "trace_steps", steps)
    return path


def _insert(connection: sqlite3.Connection, table: str, rows: Iterable[Row]) -> None:
    for row in rows:
        marks = ", ".join("?" * len(row))
        connection.execute(
            f"INSERT INTO {table}({', '.join(row)}) VALUES ({marks})",  # noqa: S608
            tuple(row.values()),
        )


def opened(store: Path) -> SqliteTraces:
    """Index a store and open it."""
    index = store.with_suffix(".index")
    build_index(store, index)
    return SqliteTraces(store, index)


def make_home(
    directory: Path,
    *,
    traces: Iterable[Row] = (),
    steps: Iterable[Row] = (),
    samples: Sequence[Row] = ({"trace_id": "task-1", "query": "What is 1 + 1?"},),
    config: str | None = CONFIG,
    prompts: Mapping[str, str] | None = None,
    tools: str | None = None,
) -> Path:
    """Write a home that can be packed."""
    directory.mkdir(parents=True, exist_ok=True)
    write_store(directory / "traces.db", traces, steps)
    (directory / "benchmark.json").write_text(json.dumps({"samples": samples}), encoding="utf-8")
    if config is not None:
        (directory / "config.toml").write_text(config, encoding="utf-8")
    for agent, prompt in (prompts or {}).items():
        folder = directory / "agents" / agent
        folder.mkdir(parents=True)
        (folder / "system_prompt.md").write_text(prompt, encoding="utf-8")
    if tools is not None:
        (directory / "tools").mkdir()
        (directory / "tools" / "descriptions.toml").write_text(tools, encoding="utf-8")
    return directory


def pack_and_open(home: Path, directory: Path) -> Bundle:
    """Pack a home and open the bundle."""
    return open_bundle(pack(home, directory / "packed").path, directory / "bundle")
