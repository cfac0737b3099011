"""Keeps the leases of this process alive, and tells their holders when one is lost.

Rule: one thread a process, not one a step; it renews all leases in one script. A beat that fails
because the server is away changes nothing: the lease may run out, and the commit is then fenced.
A step whose lease may have run out begins nothing that costs: a process that was stopped for a while
finds that out by its own clock, before its first beat.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from worker.core import policy
from worker.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from worker.ports import Journal, Lease

__all__ = ["Heart", "Kept"]


class Kept:
    """A lease that is being kept, as its step sees it."""

    def __init__(self, now_s: Callable[[], float], since_s: float) -> None:
        """Take the clock, and when the lease was asked for."""
        self._now_s = now_s
        self._renewed_s = since_s
        self._told = threading.Event()

    @property
    def told(self) -> bool:
        """Whether the journal said that the lease is lost, or that the step must stop."""
        return self._told.is_set()

    def stopped(self) -> bool:
        """Whether the step must begin nothing more: told so, or the lease may have run out."""
        return self.told or self._now_s() - self._renewed_s >= policy.LEASE_MS / 1000

    def renewed(self, since_s: float) -> None:
        """Take note of a beat that was answered; `since_s` is when it was sent."""
        self._renewed_s = since_s

    def stop(self) -> None:
        """Have the step stop."""
        self._told.set()


class Heart:
    """Beats for every lease that is being kept; starts its thread with the first one."""

    def __init__(
        self,
        journal: Journal,
        *,
        beat_ms: int | None = policy.BEAT_MS,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the journal of the leases.

        Args:
            journal: Renews them.
            beat_ms: Time between two beats; None has no thread: its owner calls `beat`.
            now_s: This process's clock, from anywhere on.
        """
        self.now_s = now_s
        self._journal = journal
        self._beat_s = None if beat_ms is None else beat_ms / 1000
        self._kept: dict[Lease, Kept] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def keeping(self, lease: Lease, *, since_s: float) -> Generator[Kept]:
        """Renew `lease`, which was asked for at `since_s`, inside the block."""
        kept = Kept(self.now_s, since_s)
        with self._lock:
            self._kept[lease] = kept
            self._start()
        try:
            yield kept
        finally:
            with self._lock:
                self._kept.pop(lease, None)

    def beat(self) -> None:
        """Renew all kept leases once."""
        with self._lock:
            leases = tuple(self._kept)
        if not leases:
            return
        since_s = self.now_s()
        try:
            gone = self._journal.beat(leases)
        except Unavailable:
            return
        with self._lock:
            for lease in leases:
                kept = self._kept.get(lease)
                if kept is None:
                    continue
                if lease in gone:
                    kept.stop()
                else:
                    kept.renewed(since_s)

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
