"""What all requests of a simulated teacher share: keys, cache, bill, faults, script, log.

Rule: everything in here may be used from many threads at once; nothing in here knows of sockets.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from worker.embedded.teacher.api_error import ApiError
from worker.embedded.teacher.batches import Batches
from worker.embedded.teacher.cache import PromptCache
from worker.embedded.teacher.catalogue import MODELS
from worker.embedded.teacher.faults import Faults
from worker.embedded.teacher.limits import BucketLimits, Buckets
from worker.embedded.teacher.pace import Pace
from worker.embedded.teacher.prompt import prompt_of
from worker.embedded.teacher.script import Script

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from worker.embedded.teacher.bill import Bill
    from worker.embedded.teacher.cache import Split
    from worker.embedded.teacher.reply import Brain, Reply
    from worker.embedded.teacher.wire import MessagesRequest

__all__ = ["Clock", "Desk", "Received", "RequestLog"]

#: The log keeps the newest requests within both bounds.
_LOG_REQUESTS = 5_000
_LOG_BYTES = 256_000_000

#: Headers that the log keeps. Never the key.
_LOGGED_HEADERS = ("anthropic-version", "anthropic-beta", "user-agent", "x-stainless-retry-count")


class Clock(Protocol):
    """Where the time comes from."""

    def now_ms(self) -> int:
        """Return milliseconds since the epoch."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One HTTP request, as it came in."""

    sequence_no: int
    path: str
    #: Names in lower case.
    headers: Mapping[str, str]
    body: bytes
    received_ms: int

    @property
    def request_id(self) -> str:
        """The id that the answer carries. It says that it is no real one."""
        return f"req_sim_{self.sequence_no:06d}"

    @property
    def message_id(self) -> str:
        """The id of the message that the answer holds."""
        return f"msg_sim_{self.sequence_no:06d}"


class RequestLog:
    """The newest requests with their whole bodies. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: deque[Received] = deque()
        self._bytes = 0
        self._dropped = 0

    def add(self, received: Received) -> None:
        """Keep a request, and drop the oldest ones that no longer fit."""
        with self._lock:
            self._kept.append(received)
            self._bytes += len(received.body)
            while len(self._kept) > _LOG_REQUESTS or self._bytes > _LOG_BYTES:
                self._bytes -= len(self._kept.popleft().body)
                self._dropped += 1

    def bodies(self) -> tuple[str, ...]:
        """Return the bodies as text, the oldest first."""
        with self._lock:
            return tuple(received.body.decode(errors="replace") for received in self._kept)

    def as_json(self) -> dict[str, Any]:
        """Return the log as a JSON object."""
        with self._lock:
            requests = [_logged(received) for received in self._kept]
            return {"requests": requests, "dropped": self._dropped}

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0
            self._dropped = 0


def _logged(received: Received) -> dict[str, Any]:
    return {
        "sequence_no": received.sequence_no,
        "request_id": received.request_id,
        "received_ms": received.received_ms,
        "path": received.path,
        "headers": {
            name: received.headers[name] for name in _LOGGED_HEADERS if name in received.headers
        },
        "body": received.body.decode(errors="replace"),
    }


@dataclass(slots=True, kw_only=True)
class Desk:
    """The state of one simulated teacher."""

    brain: Brain
    clock: Clock
    api_keys: frozenset[str]
    bill: Bill
    pace: Pace = field(default_factory=Pace)
    faults: Faults = field(default_factory=Faults)
    buckets: Buckets = field(default_factory=Buckets)
    script: Script = field(default_factory=Script)
    log: RequestLog = field(default_factory=RequestLog)
    batches: Batches = field(default_factory=Batches)
    #: What went wrong inside the simulator itself. A test wants this empty.
    crashes: list[str] = field(default_factory=list[str])
    _cache: PromptCache = field(default_factory=PromptCache)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _last_sequence_no: int = 0
    _open: set[int] = field(default_factory=set[int])

    def workspace_of(self, headers: Mapping[str, str]) -> str:
        """Return the workspace of the key that a request carries.

        Raises:
            ApiError: There is no key (401), or it is not one of ours.
        """
        # The SDK of 2.x sends its key as a bearer token; older ones and curl as `x-api-key`.
        key = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
        if not key:
            raise ApiError(401, "x-api-key or Authorization header is required")
        if key not in self.api_keys:
            raise ApiError(401, "invalid API key (the simulated teacher knows only its own)")
        return f"wrkspc_sim_{hashlib.sha256(key.encode()).hexdigest()[:12]}"

    @contextmanager
    def request(self) -> Generator[int]:
        """Give a request its number; it is open until the block ends."""
        with self._lock:
            self._last_sequence_no += 1
            number = self._last_sequence_no
            self._open.add(number)
        try:
            yield number
        finally:
            with self._lock:
                self._open.discard(number)

    @property
    def open_requests(self) -> int:
        """How many requests are under way: their lines are not on the bill yet."""
        return len(self._open)

    def split(self, request: MessagesRequest, workspace: str, now_ms: int) -> Split:
        """Return how the request's prompt is charged, if it starts now."""
        with self._lock:
            return self._cache.split(
                prompt_of(request),
                workspace=workspace,
                model=request.model,
                min_tokens=MODELS[request.model].min_cache_tokens,
                now_ms=now_ms,
            )

    def begin(self, split: Split, started_ms: int) -> None:
        """Say that the response to the request that was split begins."""
        with self._lock:
            self._cache.begin(split, started_ms=started_ms)

    def reply(self, request: MessagesRequest, kind: str) -> Reply:
        """Return what the script says, or the brain where no script is for this request."""
        return self.script.take(request, kind) or self.brain.reply(request)

    def reset(self, what: frozenset[str]) -> None:
        """Forget some of it; sequence numbers go on."""
        if "cache" in what:
            with self._lock:
                self._cache.clear()
        if "log" in what:
            self.log.clear()
            self.crashes.clear()
        if "faults" in what:
            self.faults.clear()
        if "limits" in what:
            self.buckets.set(BucketLimits())
        if "script" in what:
            self.script.clear()
        if "bill" in what:
            self.bill.reset()
