"""The object store.

Rule: a conditional write is how several workers agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path


__all__ = [
    "Artifacts",
]


class Artifacts(Protocol):
    """Objects by key, in S3 or in memory. Keys are made by `worker.core.keys`, never by callers.

    All raise `Unavailable` when the store does not answer.
    """

    def put(self, key: str, body: bytes, *, content_type: str) -> None:
        """Write an object with a checksum, overwriting."""
        ...

    def put_new(self, key: str, body: bytes, *, content_type: str) -> bool:
        """Write an object only if there is none; False where one exists."""
        ...

    def put_file(self, key: str, path: Path, *, content_type: str) -> bool:
        """Write a file as a new object; False where one exists."""
        ...

    def get(self, key: str) -> bytes | None:
        """Return an object, None where there is none."""
        ...

    def get_file(self, key: str, path: Path) -> bool:
        """Write an object to `path`; False where there is none."""
        ...

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        ...

    def list(self, prefix: str) -> tuple[str, ...]:
        """Return the keys under a prefix, sorted."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        ...

    def uri(self, key: str) -> str:
        """Return the address a user can follow, `s3://bucket/key`."""
        ...
