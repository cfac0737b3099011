"""A durable step in one process, on the journal in memory.

Rule: the shell is the one that workers use, with the same core; only servers are missing.
"""

from __future__ import annotations

import random
import secrets
import time
from collections import deque
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from tests.bench.noop import Noop, session_spec
from worker.clock import SystemClock
from worker.journal.memory import MemoryJournal
from worker.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.ports import Announcement
    from worker.steps.context import Ports

__all__ = ["SESSIONS", "TURNS", "steps_ms"]

SESSIONS, TURNS = 40, 50


def _nothing(name: str) -> None:
    del name


class Chain:
    """Runs sessions to their end, one step after the other."""

    def __init__(self) -> None:
        self._told: deque[Announcement] = deque()
        self.runner = Runner(
            journal=MemoryJournal(SystemClock()),
            hints=self,
            ports=cast("Ports", SimpleNamespace(ledger=None)),
            owner="bench",
            new_token=lambda: secrets.token_hex(8),
            chance=random.random,
            perform=Noop(_nothing, _nothing),
        )

    def tell(self, announcements: Sequence[Announcement]) -> None:
        """Keep the steps that are to be done."""
        self._told.extend(announcements)

    def run(self, name: str, turns: int) -> list[float]:
        """Run a session; return how long each of its steps took, in milliseconds."""
        took_ms: list[float] = []
        self.runner.open(session_spec(name, turns=turns), {})
        while self._told:
            step = self._told.popleft()
            began_s = time.perf_counter()
            worked = self.runner.work(step.session_id, step.step_id)
            took_ms.append((time.perf_counter() - began_s) * 1000)
            assert worked.status == "done", worked
        return took_ms

    def close(self) -> None:
        """Stop the heart."""
        self.runner.close()


def steps_ms() -> list[float]:
    """Return how long each step of all sessions took, in milliseconds."""
    chain = Chain()
    took_ms = [ms for number in range(SESSIONS) for ms in chain.run(f"local-{number}", TURNS)]
    chain.close()
    return took_ms
