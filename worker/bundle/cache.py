"""Bundles on this machine, by hash, shared by all its threads and processes.

Rule: a bundle in use is never evicted, one that was damaged is fetched again, and whatever dies at
whatever point leaves nothing behind that the next one would trust.

Every bundle has two lock files beside its folder. Who reads or installs it holds the first one
shared, who evicts it holds that one alone; who installs it also holds the second one alone. The
system gives locks back when a process dies.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import threading
from collections import OrderedDict, deque
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from worker.bundle.open import (
    Bundle,
    Content,
    hash_file,
    install,
    installed_bytes,
    is_intact,
    load,
)
from worker.errors import BundleInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

__all__ = ["BundleCache"]

#: A session calls tools for minutes on end; between two calls its bundle stays open.
_IDLE_OPEN_MAX = 4

#: A transfer that breaks twice in a row is not an accident.
_FETCHES_MAX = 2

_SHA256 = re.compile(r"[0-9a-f]{64}")
_LEFTOVERS = (".partial", ".gone", ".download")
_BESIDES = (*_LEFTOVERS, ".lock", ".install")


class BundleCache:
    """A folder of installed bundles that is kept under a size."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        """Use `directory`, which several processes may share, for up to `max_bytes` of bundles.

        The size is kept by evicting what was not used for longest. Bundles in use count but stay,
        so one that is larger than the limit still works.
        """
        self._directory = directory
        self._max_bytes = max_bytes
        self._too_large = False
        self._mutex = threading.Lock()
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._turns: dict[str, _Turn] = {}
        #: Bundles that readers dropped without closing them. Appending needs no lock.
        self._forgotten: deque[_Open] = deque()
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def get(self, sha256: str, fetch: Callable[[Path], None]) -> Bundle:
        """Return the bundle, fetched if it is not here, held until it is closed.

        Args:
            sha256: The hash of the packed bundle.
            fetch: Writes the packed bundle to a path. What it raises is passed on.

        Raises:
            BundleInvalid: What was fetched is another bundle or none at all.
            UnknownVersion: The bundle was packed by a newer version.
        """
        if _SHA256.fullmatch(sha256) is None:
            raise BundleInvalid(f"{sha256!r} is no SHA-256 in lower-case hexadecimal")
        self._give_back_forgotten()
        with _take_turn(self._turns, self._mutex, sha256):
            opened = self._reuse(sha256)
            entered = opened is None
            if opened is None:
                opened = self._enter(sha256, fetch)
        if entered:
            # Also where another process fetched it: that one cannot evict it while it is in use here.
            self._shrink()
        return Bundle(
            opened.content,
            release=partial(self._release, opened),
            forget=partial(self._forgotten.append, opened),
        )

    def close(self) -> None:
        """Close the bundles that nobody uses; those in use are closed when they are given back."""
        self._give_back_forgotten()
        with self._mutex:
            self._close_idle(keep=0)

    def _give_back_forgotten(self) -> None:
        while self._forgotten:
            self._release(self._forgotten.popleft())

    def _reuse(self, sha256: str) -> _Open | None:
        with self._mutex:
            opened = self._open.get(sha256)
            if opened is not None:
                opened.users += 1
            return opened

    def _enter(self, sha256: str, fetch: Callable[[Path], None]) -> _Open:
        """Open a bundle that this process has not open, fetched if it is not here."""
        folder = self._directory / sha256
        lock = _Lock(self._lock_path(sha256), fcntl.LOCK_SH)
        try:
            if not is_intact(folder):
                with closing(_Lock(self._lock_path(sha256, ".install"), fcntl.LOCK_EX)):
                    # Another process may have been first.
                    if not is_intact(folder):
                        self._install(sha256, fetch)
            opened = _Open(load(folder, sha256), lock)
        except BaseException:
            lock.close()
            raise
        lock.touch()
        with self._mutex:
            self._open[sha256] = opened
        return opened

    def _install(self, sha256: str, fetch: Callable[[Path], None]) -> None:
        """Fetch and unpack a bundle; the lock for that is held."""
        self._remove_leftovers(sha256)
        folder = self._directory / sha256
        if folder.exists():
            # Damaged. Whoever has it open keeps its files; a new reader gets new ones.
            folder.rename(folder.with_suffix(".gone"))
        download = folder.with_suffix(".download")
        try:
            _fetch_checked(sha256, fetch, download)
            install(download, folder, sha256=sha256)
        finally:
            self._remove_leftovers(sha256)

    def _release(self, opened: _Open) -> None:
        with self._mutex:
            opened.users -= 1
            opened.lock.touch()
            if not opened.users:
                self._open.move_to_end(opened.content.sha256)
            self._close_idle(keep=_IDLE_OPEN_MAX)
        if self._too_large:
            self._shrink()

    def _close_idle(self, keep: int) -> None:
        """Close what was unused for longest, but for the last few; the mutex is held."""
        idle = [sha256 for sha256, opened in self._open.items() if not opened.users]
        for sha256 in idle[: len(idle) - keep]:
            self._open.pop(sha256).close()

    def _shrink(self) -> None:
        """Evict what was unused for longest until the rest fits."""
        with closing(_Lock(self._directory / "cache.lock", fcntl.LOCK_EX)):
            self._remove_all_leftovers()
            sizes = {
                path.name: installed_bytes(path)
                for path in self._directory.iterdir()
                if _SHA256.fullmatch(path.name)
            }
            surplus = sum(sizes.values()) - self._max_bytes
            for sha256 in sorted(sizes, key=self._last_use):
                if surplus > 0 and self._evict(sha256):
                    surplus -= sizes[sha256]
            self._too_large = surplus > 0

    def _last_use(self, sha256: str) -> int:
        path = self._lock_path(sha256)
        return path.stat().st_mtime_ns if path.exists() else 0

    def _evict(self, sha256: str) -> bool:
        """Remove a bundle; False where somebody uses it."""
        with self._mutex:
            opened = self._open.get(sha256)
            if opened is not None:
                if opened.users:
                    return False
                self._open.pop(sha256).close()
        lock = _try_alone(self._lock_path(sha256))
        if lock is None:
            return False
        with closing(lock):
            folder = self._directory / sha256
            # Renamed first: a folder that is half removed must not look like a bundle.
            folder.rename(folder.with_suffix(".gone"))
            self._forget(sha256, lock)
        return True

    def _remove_all_leftovers(self) -> None:
        """Remove what processes that died have left; what has its lock taken is being worked on."""
        for name in {path.stem for path in self._directory.iterdir() if path.suffix in _BESIDES}:
            lock = _try_alone(self._lock_path(name)) if _SHA256.fullmatch(name) else None
            if lock is not None:
                with closing(lock):
                    self._forget(name, lock)

    def _forget(self, sha256: str, lock: _Lock) -> None:
        """Remove everything beside a bundle, and its locks if there is no bundle."""
        self._remove_leftovers(sha256)
        if not (self._directory / sha256).exists():
            self._lock_path(sha256, ".install").unlink(missing_ok=True)
            lock.remove()

    def _remove_leftovers(self, sha256: str) -> None:
        folder = self._directory / sha256
        for suffix in _LEFTOVERS:
            shutil.rmtree(folder.with_suffix(suffix), ignore_errors=True)
            if folder.with_suffix(suffix).is_file():
                folder.with_suffix(suffix).unlink()

    def _lock_path(self, sha256: str, suffix: str = ".lock") -> Path:
        return self._directory / f"{sha256}{suffix}"


@dataclass(slots=True)
class _Open:
    """A bundle that this process has open."""

    content: Content
    #: Held shared for as long as the bundle is open.
    lock: _Lock
    users: int = 1

    def close(self) -> None:
        self.content.traces.close()
        self.lock.close()


@dataclass(slots=True)
class _Turn:
    """The right to open one bundle: one thread does it, the others find it open."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    waiting: int = 0


@contextmanager
def _take_turn(turns: dict[str, _Turn], mutex: threading.Lock, sha256: str) -> Generator[None]:
    with mutex:
        turn = turns.setdefault(sha256, _Turn())
        turn.waiting += 1
    try:
        with turn.lock:
            yield
    finally:
        with mutex:
            turn.waiting -= 1
            if not turn.waiting:
                del turns[sha256]


class _Lock:
    """A lock file, held until it is closed or its process dies."""

    def __init__(self, path: Path, how: int) -> None:
        self._path = path
        self._fd = _lock_file(path, how)

    def touch(self) -> None:
        """Note that the bundle is in use now."""
        os.utime(self._fd)

    def remove(self) -> None:
        """Remove the file; whoever waits for it notices and makes a new one."""
        self._path.unlink()

    def close(self) -> None:
        os.close(self._fd)


def _try_alone(path: Path) -> _Lock | None:
    try:
        return _Lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None


def _lock_file(path: Path, how: int) -> int:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, how)
            # The file may have been removed by its last holder while we waited.
            if path.exists() and os.path.samestat(os.fstat(fd), path.stat()):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _fetch_checked(sha256: str, fetch: Callable[[Path], None], download: Path) -> None:
    for _ in range(_FETCHES_MAX):
        download.unlink(missing_ok=True)
        fetch(download)
        if download.exists() and hash_file(download) == sha256:
            return
    found = hash_file(download) if download.exists() else "nothing"
    raise BundleInvalid(
        f"the bundle {sha256} was fetched {_FETCHES_MAX} times and hashed to {found}: "
        "the stored object is damaged; pack and upload the home again",
        expected=sha256,
        found=found,
    )
