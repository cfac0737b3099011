"""Faults that a test asks for, played on the requests that it names.

Rule: a fault waits in a queue until a request fits it; a request takes the first one that is ripe.
What a fault does to the connection is up to the server; here it is only chosen.
"""

from __future__ import annotations

import threading
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from worker.embedded.teacher.wire import Shape

__all__ = [
    "CutStream",
    "Delay",
    "EmptyContent",
    "Fault",
    "FaultList",
    "Faults",
    "HangAfter",
    "HangBefore",
    "Match",
    "Paced",
    "Reset",
    "Stall",
    "Status",
    "StopReason",
    "StreamError",
]

_Ms = Annotated[int, Field(ge=0)]
_Events = Annotated[int, Field(ge=0)]

#: A client that waits longer than this has no time-out of its own.
_FOREVER_MS = 3_600_000


class Match(Shape):
    """The requests that a fault is meant for. What is left out fits every request."""

    #: `explorer`, `closing`, `solver` or `judge`.
    kind: str | None = None
    model: str | None = None
    #: Not before the nth such request since the fault was posted, counted from 1.
    nth: Annotated[int, Field(ge=1)] = 1


class _Fault(Shape):
    match: Match = Match()
    #: How many requests it is played on; None for all from the nth on.
    times: Annotated[int, Field(ge=1)] | None = 1


class Status(_Fault):
    """An error status instead of an answer. Not billed."""

    fault: Literal["status"]
    status: Annotated[int, Field(ge=400, le=599)]
    #: Such as `retry-after`.
    headers: dict[str, str] = Field(default_factory=dict[str, str])
    #: None for the type that belongs to the status.
    error_type: str | None = None
    message: str = "a fault that was asked for (simulated)"
    #: `error.details`, with its `error_code`.
    details: dict[str, Any] | None = None


class CutStream(_Fault):
    """The connection closes after some events, or in the middle of a body. Billed so far."""

    fault: Literal["cut_stream"]
    after_events: _Events = 3


class StreamError(_Fault):
    """An `error` event after some others, then the end of the stream. Billed so far."""

    fault: Literal["stream_error"]
    after_events: _Events = 3
    error_type: str = "overloaded_error"
    message: str = "Overloaded (simulated)"


class Stall(_Fault):
    """Silence after some events, then the rest. Billed in full, if the client waits."""

    fault: Literal["stall"]
    after_events: _Events = 1
    ms: _Ms


class HangBefore(_Fault):
    """No answer, ever, and the model never starts. Not billed."""

    fault: Literal["hang_before"]
    ms: _Ms = _FOREVER_MS


class HangAfter(_Fault):
    """The model answers in full, and nobody hears of it. Billed in full."""

    fault: Literal["hang_after"]
    ms: _Ms = _FOREVER_MS


class Reset(_Fault):
    """The connection is reset instead of an answer."""

    fault: Literal["reset"]
    #: Whether the model had answered: then it is billed in full.
    billed: bool = False


class StopReason(_Fault):
    """The answer ends for another reason; None for none at all."""

    fault: Literal["stop_reason"]
    stop_reason: str | None
    stop_details: dict[str, Any] | None = None
    #: Whether its content is dropped, as in a refusal before any output.
    empty: bool = False


class EmptyContent(_Fault):
    """The answer has no content."""

    fault: Literal["empty_content"]


class Delay(_Fault):
    """The answer begins later."""

    fault: Literal["delay_ms"]
    ms: _Ms


class Paced(_Fault):
    """The answer comes at a pace of its own: slow to begin, slow to go on. Billed as ever."""

    fault: Literal["pace"]
    first_ms: _Ms = 0
    event_ms: _Ms = 0


Fault: TypeAlias = (
    Status
    | CutStream
    | StreamError
    | Stall
    | HangBefore
    | HangAfter
    | Reset
    | StopReason
    | EmptyContent
    | Delay
    | Paced
)


class FaultList(Shape):
    """The body of `POST /_sim/faults`."""

    faults: list[Annotated[Fault, Field(discriminator="fault")]]


class _Queued:
    """A fault with what it has seen."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.seen = 0
        self.played = 0

    @property
    def spent(self) -> bool:
        return self.fault.times is not None and self.played >= self.fault.times

    def ripens(self, kind: str, model: str) -> bool:
        """Count a request; whether the fault is for it."""
        match = self.fault.match
        if (match.kind or kind) != kind or (match.model or model) != model:
            return False
        self.seen += 1
        return self.seen >= match.nth and not self.spent


class Faults:
    """The queue. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: list[_Queued] = []

    def add(self, *faults: Fault) -> None:
        """Put faults at the end of the queue."""
        with self._lock:
            self._queue += [_Queued(fault) for fault in faults]

    def take(self, kind: str, model: str) -> Fault | None:
        """Return the fault for a request of this kind and model, None for none."""
        with self._lock:
            ripe = [queued for queued in self._queue if queued.ripens(kind, model)]
            if not ripe:
                return None
            ripe[0].played += 1
            self._queue = [queued for queued in self._queue if not queued.spent]
            return ripe[0].fault

    def clear(self) -> None:
        """Drop what was not played."""
        with self._lock:
            self._queue.clear()

    def waiting(self) -> tuple[Fault, ...]:
        """Return what was not played yet."""
        with self._lock:
            return tuple(queued.fault for queued in self._queue)
