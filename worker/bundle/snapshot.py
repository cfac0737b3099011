"""A trace store as it was at one moment, copied without its credentials while it is written to.

Rule: the copy holds the rows that a reader would have seen at that moment, all of them, in tables
of one known shape; what was deleted from the store, or is none of ours, does not come along.
"""

# Names in the SQL are constants of this project; what users give is always bound.
# ruff: noqa: S608

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import quote

from worker.errors import BundleInvalid
from worker.traces.cells import read_text
from worker.traces.source import (
    STEP_COLUMNS,
    TRACE_COLUMNS,
    attach,
    find_tables,
    translated,
    uri_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from worker.bundle.redaction import Redactor
    from worker.traces.source import Table

__all__ = ["copy_store", "export_store"]

#: A writer holds a lock for milliseconds; one that holds it this long is stuck.
_LOCKED_SECONDS_MAX = 60.0

#: Columns that hold JSON, where a credential is found by the key it stands under.
_JSON_COLUMNS = frozenset(("metadata", "messages", "input", "output"))


def copy_store(source: Path, target: Path) -> None:
    """Copy the store as it is at one moment, through SQLite's backup API.

    Raises:
        BundleInvalid: The store cannot be read, or is locked for too long.
    """
    with (
        translated(source),
        closing(_open_live(source)) as live,
        closing(sqlite3.connect(target)) as copy,
    ):
        live.backup(copy, progress=_give_up_after(_LOCKED_SECONDS_MAX, source), sleep=0.05)


def export_store(copy: Path, target: Path, redactor: Redactor) -> int:
    """Write the copy's rows anew with credentials masked; return how many cells were changed.

    Raises:
        BundleInvalid: The copy is damaged, or has no table of traces.
    """
    with translated(copy), closing(_open_new(target)) as connection:
        attach(connection, copy)
        traces, steps = find_tables(connection)
        connection.execute("BEGIN")
        connection.execute(_create("traces", TRACE_COLUMNS))
        connection.execute(_create("trace_steps", STEP_COLUMNS))
        masked = _export(connection, traces, TRACE_COLUMNS, redactor)
        if steps is not None:
            masked += _export(connection, steps, STEP_COLUMNS, redactor)
        connection.execute("COMMIT")
    return masked


def _open_live(source: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"file:{quote(str(source.absolute()))}?mode=ro", uri=True)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        connection.close()
        # A store in WAL mode wants files beside it even to be read. Where the folder is read-only
        # and there is no such file, nobody writes, and the store can be read as it lies.
        log = source.with_name(f"{source.name}-wal")
        if log.exists() and log.stat().st_size:
            raise
        return sqlite3.connect(uri_of(source), uri=True)
    return connection


def _give_up_after(seconds: float, source: Path) -> Callable[[int, int, int], None]:
    deadline_s = time.monotonic() + seconds

    def progress(status: int, _remaining: int, _total: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() > deadline_s:
            raise BundleInvalid(
                f"{source.name!r} was locked by a writer for {seconds:.0f} s: "
                "find the process that holds it, then pack again"
            )

    return progress


def _open_new(target: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(str(target.absolute()))}", uri=True, isolation_level=None
    )
    # No journal and one page size: the bytes of the file depend on its rows alone.
    for pragma in ("page_size = 4096", "journal_mode = off", "synchronous = off"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _create(table: str, columns: tuple[str, ...]) -> str:
    # Columns without a type keep a value as it was stored, whatever it is.
    return f"CREATE TABLE main.{table}(id INTEGER PRIMARY KEY, {', '.join(columns)})"


def _export(
    connection: sqlite3.Connection, table: Table, columns: tuple[str, ...], redactor: Redactor
) -> int:
    add = f"INSERT INTO main.{table.name} VALUES ({', '.join('?' * (len(columns) + 1))})"
    masked = 0
    rows = connection.execute(
        f"SELECT {table.row}, {table.columns(*columns)} FROM {table.source} ORDER BY 1"
    )
    for row_number, *cells in rows:
        clean = [_clean(name, cell, redactor) for name, cell in zip(columns, cells, strict=True)]
        masked += sum(old is not new for old, new in zip(cells, clean, strict=True))
        connection.execute(add, (row_number, *clean))
    return masked


def _clean(column: str, cell: object, redactor: Redactor) -> object:
    """Return the cell without credentials: the same object where there was none."""
    if cell is None or isinstance(cell, (int, float)):
        return cell
    text = read_text(cell)
    if column == "trace_id":
        # An id may look like a key, and must stay the same in both tables.
        clean = redactor.known(text)
    else:
        clean = redactor.cell(text) if column in _JSON_COLUMNS else redactor.text(text)
    return cell if clean == text else clean
