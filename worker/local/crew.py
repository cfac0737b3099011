"""The threads of a run: they take items from one queue, and end with it.

Rule: a crew leaves no thread behind but one that is inside a call of somebody else's which does not
return; nobody can end that one, and as a daemon it keeps no process alive.
"""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Crew"]

T = TypeVar("T")


class Crew(Generic[T]):
    """Up to `size` threads that work on what is put; started as they are needed."""

    def __init__(self, work: Callable[[T], None], size: int) -> None:
        """Make a crew.

        Args:
            work: Must not raise.
            size: 1 or more.
        """
        self._work = work
        self._size = size
        self._items: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closed = False

    def put(self, item: T) -> None:
        """Have a thread work on an item; after `close` nobody does."""
        with self._lock:
            if self._closed:
                return
            if len(self._threads) < self._size:
                self._start()
        self._items.put(item)

    def close(self, patience_s: float) -> int:
        """End the threads and return how many were still inside a call when patience ran out.

        What was put and not begun is dropped.
        """
        with self._lock:
            self._closed = True
        for _ in self._threads:
            self._items.put(None)
        until_s = time.monotonic() + patience_s
        for thread in self._threads:
            thread.join(max(until_s - time.monotonic(), 0))
        return sum(thread.is_alive() for thread in self._threads)

    def _start(self) -> None:
        # What the caller's context holds (log fields, trace ids) is there for its collaborators too.
        context = contextvars.copy_context()
        name = f"diagnosis-{len(self._threads) + 1}"
        thread = threading.Thread(target=context.run, args=(self._run,), name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _run(self) -> None:
        while True:
            item = self._items.get()
            if item is None or self._closed:
                return
            self._work(item)
