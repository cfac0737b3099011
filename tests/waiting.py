"""Waiting for what happens elsewhere.

Rule: a test never sleeps for a time; it looks again until what it waits for is there.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["until"]


def until(
    what: str, found: Callable[[], Any], *, seconds: float = 60.0, every_s: float = 0.02
) -> Any:
    """Return what `found` returns once that is true.

    Raises:
        AssertionError: It is not, for so long.
    """
    tick, end_s = threading.Event(), time.monotonic() + seconds
    while time.monotonic() < end_s:
        value = found()
        if value:
            return value
        tick.wait(every_s)
    raise AssertionError(f"{what} did not happen within {seconds} s")
