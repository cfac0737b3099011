"""A folder of spooled replies in memory, for tests.

Rule: passes the contract suite of the folder on disk.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MemoryFolder"]


class MemoryFolder:
    """`spool.Folder` in a dictionary. Safe to share between threads."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def list(self) -> Mapping[str, int]:
        """Return all names with their sizes in bytes."""
        with self._lock:
            return {name: len(body) for name, body in self._files.items()}

    def read(self, name: str) -> bytes | None:
        """Return a file, None where there is none."""
        with self._lock:
            return self._files.get(name)

    def write(self, name: str, body: bytes) -> None:
        """Write a file, whole or not at all."""
        with self._lock:
            self._files[name] = body

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with self._lock:
            self._files.pop(name, None)
