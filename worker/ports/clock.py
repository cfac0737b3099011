"""The time.

Rule: the shell asks here; the core is told.
"""

from __future__ import annotations

from typing import Protocol

__all__ = [
    "Clock",
]


class Clock(Protocol):
    """The only source of time for the shell."""

    def now_ms(self) -> int:
        """Return milliseconds since the epoch."""
        ...
