"""The real clock: the one place that asks the machine what time it is."""

from __future__ import annotations

import time

__all__ = ["SystemClock"]


class SystemClock:
    """`ports.Clock` on this machine."""

    def now_ms(self) -> int:
        """Return milliseconds since the epoch."""
        return time.time_ns() // 1_000_000  # noqa: TID251 - this is the Clock

    def today(self) -> str:
        """Return the date in UTC, `YYYY-MM-DD`."""
        return time.strftime("%Y-%m-%d", time.gmtime(self.now_ms() / 1000))
