"""A few read-only SQLite connections for many threads.

Rule: a connection serves one thread at a time and goes back whatever happened.
"""

from __future__ import annotations

import queue
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Generator

__all__ = ["ConnectionPool"]

#: A query takes milliseconds and SQLite leaves the interpreter lock while it works, so a few
#: connections keep all cores busy; each holds up to half a megabyte of pages.
_CONNECTIONS_MAX = 4


class ConnectionPool:
    """Opens connections when they are first needed, up to a bound; then threads wait."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._idle: queue.LifoQueue[sqlite3.Connection | None] = queue.LifoQueue()
        self._all: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._closed = False
        # None is the right to open one more connection.
        for _ in range(_CONNECTIONS_MAX):
            self._idle.put(None)

    @contextmanager
    def connection(self) -> Generator[sqlite3.Connection]:
        """Lend a connection.

        Raises:
            RuntimeError: The pool was closed: somebody reads a bundle after giving it back.
        """
        lent = self._idle.get()
        try:
            if lent is None or self._closed:
                lent = self._open()
            yield lent
        finally:
            self._idle.put(lent)

    def close(self) -> None:
        """Close every connection. To be called when no thread reads any more."""
        with self._lock:
            self._closed = True
            connections, self._all = self._all, []
        for connection in connections:
            connection.close()

    def _open(self) -> sqlite3.Connection:
        with self._lock:
            if self._closed:
                raise RuntimeError("this bundle was closed; open it again to read from it")
            connection = self._connect()
            self._all.append(connection)
            return connection
