"""Homes that cannot be packed, each made from a good one by a change.

Rule: a case spoils one thing; `says` stands in what the one who packs the home is told.
"""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["BadHome", "bad_homes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BadHome:
    """One home."""

    name: str
    #: Changes the good home in a folder.
    spoil: Callable[[Path], object]
    #: Found in the refusal.
    says: str


def bad_homes() -> tuple[BadHome, ...]:
    """Return all of them."""
    return (*_stores(), *_benchmarks(), *_links())


def _stores() -> tuple[BadHome, ...]:
    def store(body: bytes) -> Callable[[Path], object]:
        return lambda home: (home / "traces.db").write_bytes(body)

    unreadable = "cannot be read"
    return (
        BadHome(
            name="no store", spoil=lambda home: (home / "traces.db").unlink(), says="no traces.db"
        ),
        BadHome(name="an empty store", spoil=store(b""), says="no table `traces`"),
        BadHome(name="a text as store", spoil=store(b"not SQLite at all " * 99), says=unreadable),
        BadHome(name="an encrypted store", spoil=store(bytes(range(256)) * 64), says=unreadable),
        BadHome(name="half a store", spoil=_halve, says=unreadable),
        BadHome(name="a store of something else", spoil=_other_tables, says="no table `traces`"),
        BadHome(name="a folder as store", spoil=_folder, says="traces.db"),
    )


def _halve(home: Path) -> None:
    store = home / "traces.db"
    store.write_bytes(store.read_bytes()[:4_500])


def _other_tables(home: Path) -> None:
    (home / "traces.db").unlink()
    with closing(sqlite3.connect(home / "traces.db")) as connection, connection:
        connection.execute("CREATE TABLE orders(id)")


def _folder(home: Path) -> None:
    (home / "traces.db").unlink()
    (home / "traces.db").mkdir()


def _benchmarks() -> tuple[BadHome, ...]:
    def benchmark(body: object) -> Callable[[Path], object]:
        text = body if isinstance(body, str) else json.dumps(body)
        return lambda home: (home / "benchmark.json").write_text(text, encoding="utf-8")

    def samples(*rows: Any) -> Callable[[Path], object]:
        return benchmark({"workflow_id": "w", "samples": rows})

    good = {"trace_id": "t-1", "query": "What is 1 + 1?", "reference_answer": "2"}
    scorer = "samples[0].metadata.scorer cannot be used"
    return (
        BadHome(
            name="no benchmark",
            spoil=lambda home: (home / "benchmark.json").unlink(),
            says="holds no benchmark.json",
        ),
        BadHome(name="no JSON", spoil=benchmark("{"), says="benchmark.json is not valid JSON"),
        BadHome(name="nesting without end", spoil=benchmark("[" * 200_000), says="not valid JSON"),
        BadHome(name="a number", spoil=benchmark(5), says="must hold"),
        BadHome(name="no samples", spoil=samples(), says="at least one sample"),
        BadHome(
            name="null as samples", spoil=benchmark({"samples": None}), says="at least one sample"
        ),
        BadHome(name="a text as sample", spoil=samples("t-1"), says="samples[0] must be an object"),
        BadHome(name="the same id twice", spoil=samples(good, good), says="as in samples[0]"),
        BadHome(name="no id", spoil=samples({"query": "q"}), says="samples[0].trace_id"),
        BadHome(
            name="an id of a line", spoil=samples({**good, "trace_id": "a\nb"}), says="[0].trace_id"
        ),
        BadHome(
            name="a long id", spoil=samples({**good, "trace_id": "t" * 201}), says="[0].trace_id"
        ),
        BadHome(name="no query", spoil=samples({**good, "query": " "}), says="samples[0].query"),
        BadHome(
            name="a list as reference",
            spoil=samples({**good, "reference_answer": ["2"]}),
            says="samples[0].reference_answer",
        ),
        BadHome(
            name="NaN as score",
            spoil=benchmark(
                '{"samples": [{"trace_id": "t", "query": "q", "feedback_score": NaN}]}'
            ),
            says="samples[0].feedback_score",
        ),
        BadHome(
            name="an unknown scorer",
            spoil=samples({**good, "metadata": {"scorer": "magic"}}),
            says="there is no scorer 'magic'",
        ),
        BadHome(
            name="a pattern that is none",
            spoil=samples({**good, "metadata": {"scorer": {"name": "regex", "pattern": "(["}}}),
            says=scorer,
        ),
        BadHome(
            name="a number as scorer",
            spoil=samples({**good, "metadata": {"scorer": 5}}),
            says=scorer,
        ),
    )


def _links() -> tuple[BadHome, ...]:
    def link(member: str, target: str) -> Callable[[Path], object]:
        def spoil(home: Path) -> None:
            (home / member).unlink()
            (home / member).symlink_to(target)

        return spoil

    def pipe(home: Path) -> None:
        (home / "config.toml").unlink()
        os.mkfifo(home / "config.toml")

    return (
        BadHome(
            name="a link out of the home",
            spoil=link("config.toml", "/etc/hostname"),
            says="is a link out of the home",
        ),
        BadHome(
            name="a store elsewhere", spoil=link("traces.db", "/etc/hostname"), says="link out of"
        ),
        BadHome(name="a link to nowhere", spoil=link("traces.db", "nowhere"), says="no traces.db"),
        BadHome(name="a pipe as config", spoil=pipe, says="holds no file 'config.toml'"),
    )
