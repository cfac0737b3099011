"""The two tables of a trace store, whatever version wrote them.

Rule: a missing column reads as NULL, a missing `trace_steps` as no steps; only a file without a
`traces` table is refused.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from worker.errors import BundleInvalid
from worker.traces.cells import decode

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

__all__ = [
    "STEP_COLUMNS",
    "TRACE_COLUMNS",
    "Table",
    "attach",
    "find_tables",
    "translated",
    "uri_of",
]

#: The columns of OpenJarvis 1.0.4, in its order.
TRACE_COLUMNS = (
    "trace_id",
    "query",
    "agent",
    "model",
    "engine",
    "result",
    "outcome",
    "feedback",
    "started_at",
    "ended_at",
    "total_tokens",
    "total_latency_seconds",
    "metadata",
    "messages",
)
STEP_COLUMNS = (
    "trace_id",
    "step_index",
    "step_type",
    "timestamp",
    "duration_seconds",
    "input",
    "output",
    "metadata",
)

_ROWIDS = ("rowid", "_rowid_", "oid")


@dataclass(frozen=True, slots=True)
class Table:
    """A table and how to select from it; only names known here ever get into SQL."""

    name: str
    present: frozenset[str]
    #: What SQLite calls the row number here; a column of the user's may hide the usual name.
    rowid: str

    @property
    def source(self) -> str:
        """The table as `FROM` wants it, under the alias `src`."""
        return f"source.{self.name} AS src"

    @property
    def row(self) -> str:
        """The expression of the row number."""
        return f"src.{self.rowid}"

    def column(self, name: str) -> str:
        """Return the expression of a column; NULL for one that is missing."""
        return f"src.{name}" if name in self.present else "NULL"

    def columns(self, *names: str) -> str:
        """Return the expressions of columns, joined by commas."""
        return ", ".join(self.column(name) for name in names)


def attach(connection: sqlite3.Connection, path: Path) -> None:
    """Attach the store as `source`, read-only and immutable, and read its text forgivingly."""
    connection.text_factory = decode
    connection.execute("ATTACH ? AS source", (uri_of(path),))


def uri_of(path: Path) -> str:
    """Return the URI that opens the file without locks, journals or a way to write."""
    return f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1"


def find_tables(connection: sqlite3.Connection) -> tuple[Table, Table | None]:
    """Return the tables of traces and of steps.

    Raises:
        BundleInvalid: There is no table of traces.
    """
    traces = _find(connection, "traces", TRACE_COLUMNS)
    if traces is None:
        rows = connection.execute("SELECT name FROM source.sqlite_master WHERE type = 'table'")
        names = sorted(str(name) for (name,) in rows)
        raise BundleInvalid(
            f"the trace store has no table `traces`, only {names!r}: "
            "is this the traces.db of an OpenJarvis home?",
            tables=names,
        )
    return traces, _find(connection, "trace_steps", STEP_COLUMNS)


@contextmanager
def translated(path: Path) -> Generator[None]:
    """Turn what SQLite says about a broken file into `BundleInvalid`."""
    try:
        yield
    except sqlite3.DatabaseError as exc:
        raise BundleInvalid(
            f"the trace store {path.name!r} cannot be read: {exc}. "
            "Check it with `sqlite3 traces.db 'PRAGMA integrity_check'`",
            reason=str(exc),
        ) from exc


def _find(connection: sqlite3.Connection, name: str, columns: tuple[str, ...]) -> Table | None:
    kinds = "SELECT type FROM source.sqlite_master WHERE lower(name) = ? AND type = 'table'"
    if connection.execute(kinds, (name,)).fetchone() is None:
        return None
    info = connection.execute(f"PRAGMA source.table_info({name})").fetchall()
    declared = {str(row[1]).lower() for row in info}
    rowid = next((word for word in _ROWIDS if word not in declared), _ROWIDS[0])
    return Table(name, frozenset(declared & set(columns)), rowid)
