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
LOCKED_SECONDS_MAX = 60.0

#: Columns that hold JSON, where a credential is found by the key it stands under.
_JSON_COLUMNS = frozenset(("metadata", "messages", "input", "output"))


def copy_store(source: Path, target: Path, *, wait_s: float = LOCKED_SECONDS_MAX) -> None:
    """Copy the store as it is at one moment, through SQLite's backup API.

    Raises:
        BundleInvalid: The store cannot be read, or was locked for `wait_s` seconds.
    """
    try:
        with (
            closing(_open_live(source, wait_s)) as live,
            closing(sqlite3.connect(target)) as copy,
        ):
            live.backup(copy, progress=_give_up_after(wait_s, source), sleep=0.05)
    except sqlite3.DatabaseError as exc:
        if _family(exc) == sqlite3.SQLITE_BUSY:
            raise _locked(source, wait_s) from exc
        with translated(source):
            raise


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


def _open_live(source: Path, wait_s: float) -> sqlite3.Connection:
    uri = f"file:{quote(str(source.absolute()))}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, timeout=wait_s)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError as exc:
        connection.close()
        if not _nobody_writes(source, exc):
            raise
        return sqlite3.connect(uri_of(source), uri=True)
    return connection


def _nobody_writes(source: Path, refused: sqlite3.DatabaseError) -> bool:
    """Return whether a store that cannot be opened for reading can be read as it lies.

    A store in WAL mode wants files beside it even to be read. Where the folder is read-only and
    there is no such file, nobody writes. A locked store is another matter: it would be read torn.
    """
    log = source.with_name(f"{source.name}-wal")
    unopened = _family(refused) in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
    return unopened and not (log.exists() and log.stat().st_size)


def _family(error: sqlite3.DatabaseError) -> int:
    """Return SQLite's error code without the details in its higher bytes."""
    return error.sqlite_errorcode & 0xFF


def _give_up_after(wait_s: float, source: Path) -> Callable[[int, int, int], None]:
    deadline_s = time.monotonic() + wait_s

    def progress(status: int, _remaining: int, _total: int) -> None:
        locked = status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
        if locked and time.monotonic() > deadline_s:
            raise _locked(source, wait_s)

    return progress


def _locked(source: Path, wait_s: float) -> BundleInvalid:
    return BundleInvalid(
        f"{source.name!r} was locked by a writer for {wait_s:g} s: "
        "find the process that holds it, then pack again",
        waited_s=wait_s,
    )


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
