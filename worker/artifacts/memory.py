"""Artifacts in memory, for tests and for a session that runs in one process.

Rule: passes the contract suite of the real store; nothing here is more lenient than S3.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from worker.artifacts.files import replacing

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MemoryArtifacts"]


class MemoryArtifacts:
    """Objects in a dictionary. Safe to share between threads."""

    def __init__(self, name: str = "memory") -> None:
        self._name = name
        self._objects: dict[str, bytes] = {}
        self._content_types: dict[str, str] = {}
        self._lock = threading.Lock()

    def put(self, key: str, body: bytes, *, content_type: str) -> None:
        """Write an object, overwriting."""
        with self._lock:
            self._store(key, body, content_type)

    def put_new(self, key: str, body: bytes, *, content_type: str) -> bool:
        """Write an object only if there is none; False where one exists."""
        with self._lock:
            if key in self._objects:
                return False
            self._store(key, body, content_type)
            return True

    def put_file(self, key: str, path: Path, *, content_type: str) -> bool:
        """Write a file as a new object; False where one exists."""
        return self.put_new(key, path.read_bytes(), content_type=content_type)

    def get(self, key: str) -> bytes | None:
        """Return an object, None where there is none."""
        with self._lock:
            return self._objects.get(key)

    def get_file(self, key: str, path: Path) -> bool:
        """Write an object to `path`, whole or not at all; False where there is none."""
        body = self.get(key)
        if body is None:
            return False
        with replacing(path) as file:
            file.write(body)
        return True

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        with self._lock:
            return key in self._objects

    def list(self, prefix: str) -> tuple[str, ...]:
        """Return the keys under a prefix, sorted."""
        with self._lock:
            return tuple(sorted(key for key in self._objects if key.startswith(prefix)))

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        with self._lock:
            self._objects.pop(key, None)
            self._content_types.pop(key, None)

    def uri(self, key: str) -> str:
        """Return `memory://name/key`."""
        return f"memory://{self._name}/{key}"

    def content_type(self, key: str) -> str | None:
        """Return what an object was declared as, None where there is none."""
        with self._lock:
            return self._content_types.get(key)

    def _store(self, key: str, body: bytes, content_type: str) -> None:
        self._objects[key] = bytes(body)
        self._content_types[key] = content_type
