"""Whether a worker can work, told to whoever starts it: a file that is fresh while it can.

Rule: it says what was found in the last second or so, and nothing else depends on it. A worker that
cannot work waits and loses nothing, so nobody should kill it for that.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["FRESH_S", "Readiness", "is_ready"]

#: An older file is a worker's that hangs or was killed.
FRESH_S = 30.0

_log = structlog.get_logger(__name__)


class Readiness:
    """Says how a worker stands, in a file, a metric and, where that changes, the log."""

    def __init__(self, path: Path | None, measure: Callable[[int], object]) -> None:
        """Take the file, if one is wanted, and what sets the metric."""
        self._path = path
        self._measure = measure
        self._ready: bool | None = None

    def say(self, *, ready: bool, why: str) -> None:
        """Say whether the worker can work, and if not why."""
        if ready != self._ready:
            self._ready = ready
            self._measure(int(ready))
            if ready:
                _log.info("ready")
            else:
                _log.warning("not ready", why=why)
        if ready:
            self._touch()
        else:
            self._remove()

    def withdraw(self) -> None:
        """Say nothing any more: the worker stops."""
        self._measure(0)
        self._remove()

    def _touch(self) -> None:
        if self._path is None:
            return
        try:
            self._path.touch()
            os.utime(self._path)
        except OSError as exc:
            _log.warning("readiness cannot be written", path=str(self._path), error=str(exc))

    def _remove(self) -> None:
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)


def is_ready(path: Path) -> bool:
    """Whether the worker that writes this file can work, as of the last `FRESH_S` seconds."""
    try:
        age_s = time.time() - path.stat().st_mtime  # noqa: TID251 - of a file, which has the same clock
    except OSError:
        return False
    return age_s < FRESH_S
