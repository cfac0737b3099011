"""A folder of spooled replies on this machine's disk.

Rule: when `write` returns, the file survives the death of the process and of the machine, whole. Only
this user reads and writes the folder: one that belongs to somebody else is refused, since whoever
writes there says what a teacher said.

A file is written beside its name, synced, renamed, and the folder synced: a name is a whole file, or
is not there. What a writer that died has left ends with `.partial`.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path

__all__ = ["PARTIAL", "DiskFolder"]

PARTIAL = ".partial"

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


class DiskFolder:
    """`spool.Folder` at a path. Threads, processes and containers may share it."""

    def __init__(self, path: Path) -> None:
        """Name a folder; it is made when it is first needed."""
        self._path = path

    def list(self) -> Mapping[str, int]:
        """Return all names with their sizes in bytes.

        Raises:
            OSError: The folder cannot be used.
        """
        sizes: dict[str, int] = {}
        with self._opened() as folder, os.scandir(folder) as files:
            for file in files:
                with suppress(FileNotFoundError):  # removed meanwhile
                    sizes[file.name] = file.stat(follow_symlinks=False).st_size
        return sizes

    def read(self, name: str) -> bytes | None:
        """Return a file, None where there is none.

        Raises:
            OSError: It, or the folder, cannot be read.
        """
        with self._opened() as folder:
            try:
                fd = os.open(name, _READ, dir_fd=folder)
            except FileNotFoundError:
                return None
            with os.fdopen(fd, "rb") as file:
                _check_ours(f"{self._path}/{name}", os.fstat(fd))
                return file.read()

    def write(self, name: str, body: bytes) -> None:
        """Write a file durably, whole or not at all.

        Raises:
            OSError: It is not there: the disk is full, or the folder cannot be written.
        """
        with self._opened() as folder:
            partial = name + PARTIAL
            try:
                with os.fdopen(os.open(partial, _WRITE, 0o600, dir_fd=folder), "wb") as file:
                    file.write(body)
                    file.flush()
                    os.fsync(file.fileno())
                os.rename(partial, name, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError:
                with suppress(OSError):
                    os.unlink(partial, dir_fd=folder)
                raise
            os.fsync(folder)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there.

        Raises:
            OSError: The folder cannot be written.
        """
        with self._opened() as folder, suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)

    @contextmanager
    def _opened(self) -> Generator[int]:
        """Open the folder, made if it is not there; nobody can put another in its place meanwhile."""
        try:
            fd = os.open(self._path, _FOLDER)
        except FileNotFoundError:
            self._path.mkdir(parents=True, exist_ok=True, mode=0o700)
            fd = os.open(self._path, _FOLDER)
        try:
            found = os.fstat(fd)
            _check_ours(str(self._path), found)
            if stat.S_IMODE(found.st_mode) & 0o077:
                os.fchmod(fd, 0o700)
            yield fd
        finally:
            os.close(fd)


def _check_ours(path: str, found: os.stat_result) -> None:
    """Refuse what another user wrote.

    Raises:
        PermissionError: It is not ours.
    """
    if found.st_uid != os.geteuid():
        raise PermissionError(
            f"{path!r} belongs to user {found.st_uid}, and this is user {os.geteuid()}: name another "
            "folder in DIAGNOSIS_SPOOL_DIR"
        )
