"""Keeps the leases of this process alive, and tells their holders when one is lost.

Rule: one thread a process, not one a step; it renews all leases in one script. A beat that fails
because the server is away changes nothing: the lease may run out, and the commit is then fenced.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from worker.core import policy
from worker.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Generator

    from worker.ports import Journal, Lease

__all__ = ["Heart"]


class Heart:
    """Beats for every lease that is being kept; starts its thread with the first one."""

    def __init__(self, journal: Journal, *, beat_ms: int | None = policy.BEAT_MS) -> None:
        """Take the journal of the leases.

        Args:
            journal: Renews them.
            beat_ms: Time between two beats; None has no thread: its owner calls `beat`.
        """
        self._journal = journal
        self._beat_s = None if beat_ms is None else beat_ms / 1000
        self._kept: dict[Lease, threading.Event] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def keeping(self, lease: Lease) -> Generator[threading.Event]:
        """Renew `lease` inside the block; the event is set once it is lost or must stop."""
        lost = threading.Event()
        with self._lock:
            self._kept[lease] = lost
            self._start()
        try:
            yield lost
        finally:
            with self._lock:
                self._kept.pop(lease, None)

    def beat(self) -> None:
        """Renew all kept leases once."""
        with self._lock:
            leases = tuple(self._kept)
        if not leases:
            return
        try:
            gone = self._journal.beat(leases)
        except Unavailable:
            return
        with self._lock:
            for lease in gone:
                if lease in self._kept:
                    self._kept[lease].set()

    def close(self) -> None:
        """Stop the thread. Leases that are still kept run out by themselves."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _start(self) -> None:
        """Start the thread, once a process (a forked child has none of its parent's)."""
        if self._beat_s is None or (self._thread is not None and self._thread.is_alive()):
            return
        self._thread = threading.Thread(
            target=self._run, args=(self._beat_s,), name="heart", daemon=True
        )
        self._thread.start()

    def _run(self, beat_s: float) -> None:
        while not self._closed.wait(beat_s):
            self.beat()
