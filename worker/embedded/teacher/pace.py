"""How slowly a teacher speaks.

Rule: it is the same for every answer, unless a fault asks for another one.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Pace"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The waits of an answer."""

    #: From the request to the first byte of the answer.
    first_ms: int = 0
    #: Between two events of a stream.
    event_ms: int = 0
