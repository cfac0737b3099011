"""Shared prefixes in this process.

Rule: does what the scripts do, transition by transition; the contract tests hold both to that.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.prefixes.keys import KEEP_MS, LEAD_MS, WARM_MS, key_of

if TYPE_CHECKING:
    from worker.ports import Clock, Going

__all__ = ["MemoryPrefixes"]


@dataclass(frozen=True, slots=True)
class _Known:
    #: Empty: the provider has it.
    who: str
    since_ms: int
    until_ms: int


class MemoryPrefixes:
    """`ports.Prefixes` for tests and for one process."""

    def __init__(self, clock: Clock, *, lead_ms: int = LEAD_MS) -> None:
        self._clock = clock
        self._lead_ms = lead_ms
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}

    def ask(self, prefix: str, who: str) -> Going:
        """Say whether a call that begins with the prefix may go, goes first, or waits."""
        now_ms = self._clock.now_ms()
        with self._lock:
            known = self._get(prefix, now_ms)
            if known is None:
                self._known[key_of("", prefix)] = _Known(who, now_ms, now_ms + KEEP_MS)
                return "lead"
            if not known.who:
                return "go"
            if known.who == who:
                return "lead"
            return "wait" if now_ms - known.since_ms < self._lead_ms else "go"

    def began(self, prefix: str) -> None:
        """Say that an answer to a call with this prefix has begun: the provider has it now."""
        now_ms = self._clock.now_ms()
        with self._lock:
            self._known[key_of("", prefix)] = _Known("", now_ms, now_ms + WARM_MS)

    def lost(self, prefix: str, who: str, *, sent: bool) -> None:
        """Say that whoever went first got no answer; `sent` lets all others go at once."""
        with self._lock:
            known = self._get(prefix, self._clock.now_ms())
            if known is None or known.who != who:
                return
            if sent:
                self._known[key_of("", prefix)] = _Known(who, 0, known.until_ms)
            else:
                del self._known[key_of("", prefix)]

    def _get(self, prefix: str, now_ms: int) -> _Known | None:
        known = self._known.get(key_of("", prefix))
        return known if known is not None and known.until_ms > now_ms else None
