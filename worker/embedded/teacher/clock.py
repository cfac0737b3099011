"""The simulator's clock.

Rule: this is the only file of the simulator that asks the machine for the time; tests pass another
clock to move through a cache's hour in no time.
"""

from __future__ import annotations

import time

__all__ = ["SystemClock"]


class SystemClock:
    """The machine's time."""

    def now_ms(self) -> int:
        """Return milliseconds since the epoch."""
        return time.time_ns() // 1_000_000  # noqa: TID251  (this is the adapter the rule names)
